# SPDX-License-Identifier: Apache-2.0
"""Skip the second set of block scales of ModelOpt NVFP4 experts, swizzled for Blackwell.

SGLang makes them with the layer. Nothing that serves experts before Blackwell reads or frees them:
47.6 MB a layer, 1.43 GB of a 26B-A4B, for as long as the server runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.checkpoint.schemes import MODELOPT
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

QUANTIZATION = "sglang.srt.layers.quantization"
EXPERTS = f"{QUANTIZATION}.modelopt_quant.ModelOptNvFp4FusedMoEMethod"
SWIZZLED = ("w13_blockscale_swizzled", "w2_blockscale_swizzled")

# Set while experts are created, one layer after the other. Linears may still swizzle.
_creating_experts = False


def _create(original: Callable[..., None], self: Any, layer: Any, *args: Any, **kwargs: Any):
    """AROUND create_weights: do not swizzle while experts are created."""
    global _creating_experts
    _creating_experts = True
    try:
        original(self, layer, *args, **kwargs)
    finally:
        _creating_experts = False
    for name in SWIZZLED:
        setattr(layer, name, None)


def _swizzle(original: Callable[..., torch.Tensor], scale: torch.Tensor) -> torch.Tensor:
    """AROUND swizzle_blockscale: return an empty tensor while experts are created."""
    return scale.new_empty(0) if _creating_experts else original(scale)


def _stands_down(ctx: Context) -> str | None:
    if not ctx.settings.cpu and not ctx.gpu.is_target:
        return "other GPUs multiply by the swizzled scales"
    if ctx.model is None or (ctx.model.is_moe and describe(ctx.model).nvfp4_tool == MODELOPT):
        return None
    return "the model has no experts in ModelOpt's NVFP4"


def _retired() -> bool:
    from sglang.srt.layers.quantization.modelopt_quant import ModelOptNvFp4FusedMoEMethod

    source = inspect.getsource(inspect.unwrap(ModelOptNvFp4FusedMoEMethod.create_weights))
    return "swizzle_blockscale(" not in source or "marlin" in source


PATCH = Patch(
    name="experts_without_swizzled_scales",
    theme="weights",
    summary="ModelOpt NVFP4 experts do not keep block scales that only Blackwell reads",
    why="SGLang swizzles the block scales of experts for every backend but two of Blackwell's; "
    "under Marlin the copy is never read and never freed",
    upstream="unreported",
    retire_when="create_weights of the experts does not swizzle for Marlin",
    retired=_retired,
    required=False,
    hooks=(
        Hook(f"{EXPERTS}.create_weights", "b9f7f98bdb0e", "around", _create),
        Hook(f"{QUANTIZATION}.utils.swizzle_blockscale", "84707b56435d", "around", _swizzle),
    ),
    relies_on=(Source(f"{EXPERTS}.process_weights_after_loading", "0b14fe784120"),),
    stands_down=_stands_down,
)
