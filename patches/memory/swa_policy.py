# SPDX-License-Identifier: Apache-2.0
"""Split KV memory between full and sliding layers by need, not by one ratio.

SGLang gives the sliding pool 0.8 tokens for each full one. A sliding token of the 31B costs ten
times a full one. Therefore the full pool, which bounds context, gets a ninth of the memory.
plan/policy.py decides, for the planner too. `--gemma4-swa-policy auto` chooses:

1. nothing where the user gave --swa-full-tokens-ratio or --enable-unified-memory, and nothing on a
   GPU that this extension is not for;
2. SGLang's own `--enable-unified-memory` where SGLang allows it and we have tested it beside the
   server's other features: then no split exists, and none admits more requests;
3. otherwise the fixed split whose worst load is best, solved from the byte budget that SGLang has
   measured. This is for speculative drafts that read the target's pools and for attention without
   Triton. Where --max-total-tokens sizes the pools, SGLang's ratio stays.

SGLang's request-cap configurator stays in use. It sizes the sliding pool where the radix cache
is off and --max-running-requests is given. Its cap leaves nothing for cached prefixes, so it does
not serve with the radix cache on.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.checkpoint.model_family import TARGET_ARCHITECTURES, read_model_info
from sglang_gemma4_ext.machine import detect_gpu
from sglang_gemma4_ext.plan import policy, pools
from sglang_gemma4_ext.plan.sizes import GIB
from sglang_gemma4_ext.registry import Hook, Patch, Source
from sglang_gemma4_ext.settings import Settings

logger = logging.getLogger(__name__)

HOOKS = "sglang.srt.arg_groups.kv_cache_hook"
CONFIGURATOR = "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator"
POOLS = "sglang.srt.model_executor.pool_configurator"


def _choose(server_args: Any) -> None:
    """BEFORE handle_page_major_kv_layout: backends, draft and caches are settled, pools are not."""
    from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view

    cfg, settings = resolving_view(server_args), Settings.from_env()
    if cfg.swa_full_tokens_ratio is not None or cfg.enable_unified_memory:
        return
    model = read_model_info(cfg.model_path, cfg.revision)
    if model is None or model.architecture not in TARGET_ARCHITECTURES:
        return
    server = _server(server_args, cfg, settings)
    split = policy.decide(settings.swa_policy, is_moe=model.is_moe, server=server)
    if split.kind == "shared":
        declare_resolution(server_args, "gemma4_swa_policy", enable_unified_memory=True)
    elif split.kind == "solved":
        logger.info("KV split (auto): not one shared pool, %s", split.reason)
    elif split.reason:
        logger.info("KV split (auto): SGLang's own ratio, %s", split.reason)
    elif split.ratio != pools.UPSTREAM_RATIO:
        ratio = split.ratio
        declare_resolution(server_args, "gemma4_swa_policy", swa_full_tokens_ratio=ratio)
        logger.info("KV split (seed): swa_full_tokens_ratio=%g for a mixture of experts", ratio)


def _server(server_args: Any, cfg: Any, settings: Settings) -> policy.Server:
    """Return the facts about the server that decide the split."""
    from sglang.srt.arg_groups.kv_cache_hook import attention_backends_of
    from sglang.srt.arg_groups.overrides import resolved_view

    return policy.Server(
        is_target=settings.cpu or detect_gpu().is_target,
        beside=[name for name in policy.UNTESTED_BESIDE if getattr(cfg, name)],
        spread=cfg.disaggregation_mode != "null" or cfg.pp_size > 1 or cfg.dcp_size > 1,
        kv_dtype=cfg.kv_cache_dtype,
        attention=attention_backends_of(resolved_view(server_args)),
    )


def _solve(
    original: Callable[..., Any], self: Any, budget_bytes: int, *, cap_tokens: int | None = None
) -> Any:
    """AROUND config_from_budget: set the ratio for this budget, and log the result."""
    from sglang.srt.runtime_context import get_context

    ratio = _solved_ratio(self, budget_bytes)
    if ratio is not None:
        get_context().override("gemma4_swa_policy", swa_full_tokens_ratio=ratio)
    config = original(self, budget_bytes, cap_tokens=cap_tokens)
    if self.is_hybrid_swa:
        logger.info(_explanation(config, ratio))
    return config


def _solved_ratio(kvc: Any, budget_bytes: int) -> float | None:
    """Return the split to impose, or None to keep SGLang's own."""
    from sglang.srt.model_executor import pool_configurator
    from sglang.srt.runtime_context import get_memory, get_schedule, get_spec

    schedule, gpu = get_schedule(), detect_gpu()
    configurator = pool_configurator.create_memory_pool_configurator(kvc)
    if (
        Settings.from_env().swa_policy != "auto"
        or not (gpu.vendor == "none" or gpu.is_target)
        or type(configurator) is not pool_configurator.HybridSWAPoolConfigurator
        or get_memory().enable_unified_memory
        or schedule._swa_full_tokens_ratio_explicitly_set
        or schedule.max_total_tokens is not None
    ):
        return None
    context = kvc.model_config.context_len
    chunk = schedule.chunked_prefill_size
    serving = pools.Serving(
        page=kvc.page_size,
        chunk=chunk if chunk and chunk > 0 else context,
        draft_tokens=get_spec().speculative_num_draft_tokens or 1,
        overlap=not schedule.disable_overlap_schedule,
    )
    kv = pools.KvBytes(configurator._full_cell_bytes(), configurator._swa_cell_bytes())
    # SGLang's window leaves out the token's own key.
    return pools.solve_ratio(
        budget_bytes, kv, kvc.sliding_window_size + 1, context, serving,
        max_requests=schedule.max_running_requests,
    )  # fmt: skip


def _explanation(config: Any, ratio: float | None) -> str:
    full, swa = config.full_max_total_num_tokens, config.swa_max_total_num_tokens
    if config.unified_memory_pool_bytes is not None:
        shared = config.unified_total_bytes or config.unified_memory_pool_bytes
        return f"KV split: one pool of {shared / GIB:.2f} GiB shared by need"
    why = "as SGLang sizes them" if ratio is None else f"ratio {ratio:g} has the best worst load"
    return f"KV split: {full} tokens of full attention, {swa} of sliding windows; {why}"


def _retired() -> bool:
    from sglang.srt.arg_groups.model_overrides import gemma4

    source = inspect.getsource(inspect.unwrap(gemma4._gemma4_overrides))
    return "swa_full_tokens_ratio" in source or "enable_unified_memory" in source


PATCH = Patch(
    name="swa_policy",
    theme="memory",
    summary="KV memory goes to full and sliding layers by need (--gemma4-swa-policy)",
    why=(
        "Gemma 4 gets SGLang's general ratio of 0.8 sliding tokens for a full one; a dense "
        "model's full pool, which bounds the context, then gets a ninth of the memory"
    ),
    upstream="unreported",
    retire_when="SGLang's overrides for Gemma 4 choose a ratio or the unified pool",
    retired=_retired,
    hooks=(
        Hook(f"{HOOKS}.handle_page_major_kv_layout", "4b38fc8315bd", "before", _choose),
        Hook(f"{CONFIGURATOR}.config_from_budget", "433e97b1430f", "around", _solve),
    ),
    relies_on=(
        Source(f"{HOOKS}.handle_unified_memory_pool", "7d829a78d0d8"),
        Source(f"{POOLS}.HybridSWAPoolConfigurator", "bf693d912104"),
        Source(f"{POOLS}.create_memory_pool_configurator", "a7ec5a62b327"),
    ),
)
