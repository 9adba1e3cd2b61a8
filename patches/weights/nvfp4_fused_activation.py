# SPDX-License-Identifier: Apache-2.0
"""Apply gelu(gate) * up inside the NVFP4 matmul of gate and up, which saves a launch a layer.

It holds for layers whose weights the fused kernels multiply. The activation takes fp32 sums.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.checkpoint.schemes import COMPRESSED_TENSORS, MODELOPT
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.weights import _dispatch as checkpoint
from sglang_gemma4_ext.patches.weights import _layers as nvfp4
from sglang_gemma4_ext.registry import Hook, Patch

# Gemma 4's MLP is Gemma 3's.
MLP = "sglang.srt.models.gemma3_causal.Gemma3MLP"


def _forward(original: Callable[..., Any], self: Any, x: Any) -> Any:
    """AROUND forward. Layers that are not NVFP4, or that LoRA wraps, lack row scales."""
    gate_up = self.gate_up_proj
    weight = nvfp4.weight_of(gate_up)
    if weight is None:
        return original(self, x)
    out, _ = self.down_proj(nvfp4.apply_gate_up(gate_up, weight, x))
    return out


def _stands_down(ctx: Context) -> str | None:
    formats = (MODELOPT, COMPRESSED_TENSORS)
    reasons = [
        checkpoint.stands_down(ctx, quant_format, per_layer=True) for quant_format in formats
    ]
    if all(reasons):
        return reasons[0] if ctx.model is None else "the fused NVFP4 kernels have nothing to do"
    if not checkpoint.uses_fused(ctx):
        return "NVFP4 weights are not multiplied by the fused kernels (--gemma4-weights fused)"
    return None


def _retired() -> bool:
    from sglang.srt.models.gemma3_causal import Gemma3MLP

    return "self.act_fn(" not in inspect.getsource(inspect.unwrap(Gemma3MLP.forward))


PATCH = Patch(
    name="nvfp4_fused_activation",
    theme="weights",
    summary="the MLP's activation runs inside the fused NVFP4 matmul",
    why="a quantization method is called for one linear and cannot see the activation after it",
    upstream="unreported",
    retire_when="the MLP asks its quantization method for a fused activation",
    retired=_retired,
    hooks=(Hook(f"{MLP}.forward", "7e00f1ca2e23", "around", _forward),),
    stands_down=_stands_down,
)
