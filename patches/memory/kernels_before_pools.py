# SPDX-License-Identifier: Apache-2.0
"""Run every kernel of a step once before SGLang measures how much memory is left for KV.

SGLang sizes the KV pools by the memory that is free after loading. It runs the model for the first
time when it captures graphs. Memory that a first run keeps then comes out of the reserve: code of
compiled kernels, workspaces of cuBLAS and Marlin, local memory of kernels that spill, our buffers.
Here each layer shape runs before, at token counts on both sides of every boundary between kernel
configurations, and at a prefill chunk. Attention reads the pools, so on a single GPU a step of the
whole model runs on pools of one window (_whole_step.py).

No collective runs, so that a rank that fails cannot keep the others waiting. It logs the reason,
and the kernel is compiled when first used.

SGLANG_ENABLE_POST_CAPTURE_KV_SIZING, off by default, is SGLang's own answer. It reserves addresses
only, captures its graphs, and sizes the pools by what is left. It needs CUDA, and prefill graphs up
to the chunk. With it, this patch leaves the reserve and the whole step to SGLang.
"""

from __future__ import annotations

import functools
import gc
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sglang_gemma4_ext.checkpoint.model_family import DRAFT_ARCHITECTURES, TARGET_ARCHITECTURES
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.memory import _whole_step
from sglang_gemma4_ext.patches.weights import _layers as nvfp4
from sglang_gemma4_ext.plan.sizes import GIB
from sglang_gemma4_ext.registry import Hook, Patch, Source

logger = logging.getLogger(__name__)

RUNNER = "sglang.srt.model_executor.model_runner.ModelRunner"
POOLS = "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator"
STEPS = "sglang.srt.model_executor.runner.base_runner.BaseRunner"
EXPERTS = "sglang.srt.layers.moe.fused_moe_triton.layer.FusedMoE"
# Tokens of a chunk where --chunked-prefill-size is off.
UNCHUNKED = 8192

Run = Callable[[int], Any]


def _warm(result: None, runner: Any) -> None:
    """AFTER ModelRunner.initialize: weights are final; pools and graphs do not exist yet."""
    from sglang.srt.runtime_context import get_schedule

    architectures = set(runner.model_config.hf_config.architectures or ())
    ours = architectures & (TARGET_ARCHITECTURES | DRAFT_ARCHITECTURES)
    if not ours or runner.startup_weight_load is not None:
        return  # weights that are still on their way would be folded into the router's norm
    counts = token_counts(torch.device(runner.device), get_schedule().chunked_prefill_size)
    began, free = time.perf_counter(), _free_bytes(runner.device)
    runs = list(first_runs(runner.model, runner.device))
    with torch.no_grad():
        done = sum(_ran(name, run, counts) for name, run in runs)
        step = _whole_step.can_step(runner) and _ran(
            "a step of the whole model",
            functools.partial(_whole_step.step, runner),
            # Triton's interpreter runs the same code for one token as for many.
            [counts[-1] if free else 1],
        )
    taken = (free - _free_bytes(runner.device)) / GIB
    logger.info(
        "Kernels before pools: %d of %d layer shapes%s ran at %s tokens in %.1f s "
        "and keep %.2f GiB",
        done,
        len(runs),
        " and a whole step" if step else "",
        ", ".join(map(str, counts)),
        time.perf_counter() - began,
        taken,
    )


def token_counts(device: torch.device, chunk: int | None) -> list[int]:
    """Return token counts around each boundary of the kernels' tables, and of a chunk.

    Triton's interpreter compiles nothing: one token, and one more than decode kernels take,
    suffice.
    """
    from sglang_gemma4_ext.kernels.nvfp4_dispatch import table_of

    table = table_of(device)
    if device.type != "cuda":
        return [1, table.largest_m("experts_up") + 1]
    bounds = {entry.max_m for entry in table.entries}
    largest = chunk if chunk and chunk > 0 else UNCHUNKED
    around = {1, 2, *bounds, *(bound + 1 for bound in bounds), largest}
    return sorted(count for count in around if count <= largest)


def first_runs(model: torch.nn.Module, device: str) -> Iterator[tuple[str, Run]]:
    """Yield (name, run) for each shape of linear, fused activation and routed experts."""
    from sglang.srt.layers.linear import LinearBase

    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, LinearBase):
            subject, run = module, functools.partial(_linear, module, device)
        elif getattr(getattr(module, "gate_up_proj", None), "gemma4_fused", False):
            subject, run = module.gate_up_proj, functools.partial(_gate_up, module, device)
        elif getattr(module, "router", None) is not None and hasattr(module, "moe"):
            subject, run = module.moe, functools.partial(_experts, module, device)
        else:
            continue
        shapes = ((n, w.shape, w.dtype) for n, w in subject.named_parameters())
        kind = run.func, type(subject), *shapes
        if kind not in seen:
            seen.add(kind)
            yield name, run


def _linear(linear: Any, device: str, tokens: int) -> None:
    linear.quant_method.apply(linear, _ones(linear, device, tokens))


def _gate_up(mlp: Any, device: str, tokens: int) -> None:
    linear = mlp.gate_up_proj
    if weight := nvfp4.weight_of(linear):
        nvfp4.apply_gate_up(linear, weight, _ones(linear, device, tokens))


def _experts(layer: Any, device: str, tokens: int) -> None:
    from sglang.srt.layers.moe.token_dispatcher import StandardDispatchOutput

    experts = layer.moe.experts
    x = _ones(layer.router.proj, device, tokens)
    choice = layer.moe.topk(x, layer.router(x))
    experts.run_moe_core(StandardDispatchOutput(x, None, choice))


def _ones(linear: Any, device: str, tokens: int) -> torch.Tensor:
    width = getattr(linear, "input_size_per_partition", linear.input_size)
    return torch.ones(tokens, width, dtype=linear.params_dtype, device=device)


def _ran(name: str, run: Run, counts: list[int]) -> bool:
    try:
        for tokens in counts:
            run(tokens)
    # Any error recurs, with its own message, at the first forward that runs this kernel. No request
    # may ever need it. _free_bytes raises errors that a GPU reports late.
    except Exception:
        logger.warning("%s could not run before the pools", name, exc_info=True)
        return False
    return True


def _free_bytes(device: str) -> int:
    """Return the free bytes that SGLang would measure; 0 without a GPU."""
    gc.collect()  # pools and backends hold each other
    if torch.device(device).type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def _stands_down(ctx: Context) -> str | None:
    if ctx.settings.cpu:
        compiles = ctx.settings.weights == "fused" or ctx.settings.cpu_attention == "triton"
        return None if compiles else "no kernel is compiled: everything runs in PyTorch"
    return None if ctx.gpu.is_target else "not tried on this GPU"


def _retired() -> bool:
    from sglang.srt.models import gemma4_causal, gemma4_mm

    classes = (gemma4_causal.Gemma4ForCausalLM, gemma4_mm.Gemma4ForConditionalGeneration)
    return any(hasattr(model, "precompile_kernels_after_loading") for model in classes)


PATCH = Patch(
    name="kernels_before_pools",
    theme="memory",
    summary="Linears, routers, experts and a whole step run before the KV pools are sized",
    why="SGLang first runs Gemma 4 after sizing the pools; its seam for earlier compiles, "
    "precompile_kernels_after_loading, is a method that Gemma 4 lacks",
    upstream="unreported",
    retire_when="SGLang's Gemma 4 classes have precompile_kernels_after_loading",
    retired=_retired,
    required=False,
    hooks=(Hook(f"{RUNNER}.initialize", "37137c8e6deb", "after", _warm),),
    relies_on=(
        Source(f"{RUNNER}.alloc_memory_pool", "83a744460cb1"),
        Source(
            "sglang.srt.layers.moe.fused_moe_triton.layer.FusedMoE.run_moe_core", "1cf1384f533f"
        ),
        Source(f"{RUNNER}._init_post_memory_pool_components", "22fbab6b7560"),
        Source(f"{RUNNER}.init_attention_backends", "77b269db5081"),
        Source(f"{POOLS}._derive_pool_sizes", "b2ec9a305333"),
        Source(f"{POOLS}._init_pools", "a00c9c0c5237"),
        Source(f"{STEPS}._alloc_dummy_decode_buffers", "ff1ff05f8d4a"),
        Source(f"{STEPS}._dummy_run", "844792e413b3"),
    ),
    stands_down=_stands_down,
)
