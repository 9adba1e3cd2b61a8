# SPDX-License-Identifier: Apache-2.0
"""Run INT4 routed experts for every number of tokens; twin of `int4_ref`."""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._packed_experts import run_experts
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.int4_checks import check_weight
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config
from sglang_gemma4_ext.kernels.nvfp4_grouped import SortedSlots


def int4_experts(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    w13_packed: torch.Tensor,
    w13_scale: torch.Tensor,
    w13_zero: torch.Tensor | None,
    w2_packed: torch.Tensor,
    w2_scale: torch.Tensor,
    w2_zero: torch.Tensor | None,
    activation: Activation,
    *,
    slots: SortedSlots | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """Compute for each token the sum over its experts of weight * w2(act(gate(x)) * up(x)).

    x: bf16 or fp16 [T, H], the last dimension contiguous; fp32 in the interpreter only
    topk_ids: int32 or int64 [T, k], contiguous, 0 to E - 1; a negative id is skipped
    topk_weights: floating [T, k], contiguous
    w13_packed: uint8 [E, 2I, H/2], the gate's I rows before the up projection's
    w13_scale: bf16, fp16 or fp32 [E, 2I, G]; w13_zero: int32 [E, 2I/8, G] or None
    w2_packed: uint8 [E, H, I/2]
    w2_scale: bf16, fp16 or fp32 [E, H, G]; w2_zero: int32 [E, H/8, G] or None
    slots: topk_ids sorted for blocks of config.block_m, for more tokens than a decode step has
    config: for both matmuls; None for the choice of `nvfp4_dispatch`, which `slots` excludes
    Returns [T, H] in x's dtype. Sums are fp32; the activation's result is rounded to x's dtype, and
    with `slots` each slot's product.
    Raises ValueError on a shape, dtype, stride or activation that does not fit.
    """
    w13, w2 = (w13_packed, w13_scale, w13_zero), (w2_packed, w2_scale, w2_zero)
    check_weight(*w13, dim=3)
    check_weight(*w2, dim=3)
    routing = (topk_ids, topk_weights)
    return run_experts("int4", x, routing, w13, w2, activation, slots, config)
