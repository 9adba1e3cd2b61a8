# SPDX-License-Identifier: Apache-2.0
"""Run a prefill, a decode and a verification step of the whole model before KV pools exist.

SGLang runs a dummy step for autotuning once the pools exist. We run it earlier, on a copy of the
runner with temporary pools one window long, and free them afterwards. That is the minimum of
SGLang's shared pool, 0.9 GB for the 31B. Every token of a dummy batch uses the first slot, which no
request is given. The copy shares the model with the runner and has pools, backend and buffers of
its own.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from typing import Any

POOLS = ("req_to_token_pool", "token_to_kv_pool", "token_to_kv_pool_allocator")
TOKENS = ("max_total_num_tokens", "full_max_total_num_tokens", "swa_max_total_num_tokens")


def can_step(runner: Any) -> bool:
    """Return whether a step has no collective, and Triton's kernels read the pools.

    A draft reads its target's pools. With SGLANG_ENABLE_POST_CAPTURE_KV_SIZING SGLang itself runs
    everything before it sizes its pools.
    """
    from sglang.srt.arg_groups.overrides import post_capture_kv_sizing_planned
    from sglang.srt.runtime_context import attention_backends, get_parallel

    return (
        get_parallel().launch_world_size == 1
        and set(attention_backends()) == {"triton"}
        and not runner.is_draft_worker
        and not post_capture_kv_sizing_planned(runner.server_args)
    )


def step(runner: Any, tokens: int) -> None:
    """Prefill `tokens` tokens, at most a whole context, then decode one or verify drafts."""
    from sglang.srt.model_executor.forward_batch_info import ForwardMode
    from sglang.srt.model_executor.runner.base_runner import BaseRunner
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    class Dummy(BaseRunner):
        can_run_graph = load_batch = execute = None  # abstract, and not asked for

    tokens = min(tokens, runner.model_config.context_len)
    with _quiet():
        small = _on_small_pools(runner)
        dummy, algorithm = Dummy(small), small.spec_algorithm
        rows = max(tokens, small.decode_num_tokens_per_req())
        buffers = dummy._alloc_dummy_decode_buffers(
            1, num_tokens_per_req=rows, allocate_logits_buffer=False
        )
        small.spec_algorithm = SpeculativeAlgorithm.NONE
        dummy._dummy_run(
            1, buffers=buffers, forward_mode_override=ForwardMode.EXTEND,
            extend_num_tokens_per_req=tokens,
        )  # fmt: skip
        small.spec_algorithm = algorithm
        dummy._dummy_run(1, buffers=buffers)


def _on_small_pools(runner: Any) -> Any:
    from sglang.srt.model_executor.pool_configurator import MemoryPoolConfig

    small, page = copy.copy(runner), runner.page_size
    tokens = (runner.sliding_window_size // page + 3) * page
    small.init_kv_cache_configurator()
    configurator = small.kv_cache_configurator
    config = MemoryPoolConfig(tokens, 1, tokens, tokens)
    pools = configurator._init_pools(
        sizes=configurator._derive_pool_sizes(config=config),
        req_to_token_pool=None,
        token_to_kv_pool_allocator=None,
    )
    for name in POOLS:
        setattr(small, name, getattr(pools, name))
    for name in TOKENS:
        setattr(small, name, tokens)
    small.max_running_requests = 1
    small._init_post_memory_pool_components()
    small.init_attention_backends()
    return small


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the temporary pools out of the log."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
