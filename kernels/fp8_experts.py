# SPDX-License-Identifier: Apache-2.0
"""Run FP8 routed experts on any GPU from SM80 on; twin of `fp8_ref`."""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._packed_experts import run_experts
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.fp8_checks import check_weight
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config
from sglang_gemma4_ext.kernels.nvfp4_grouped import SortedSlots


def fp8_experts(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    w13_codes: torch.Tensor,
    w13_scale: torch.Tensor,
    w2_codes: torch.Tensor,
    w2_scale: torch.Tensor,
    activation: Activation,
    *,
    slots: SortedSlots | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """Compute for each token the sum over its experts of weight * w2(act(gate(x)) * up(x)).

    x: bf16 or fp16 [T, H], the last dimension contiguous; fp32 in the interpreter only
    topk_ids: int32 or int64 [T, k], contiguous, 0 to E - 1; a negative id is skipped
    topk_weights: floating [T, k], contiguous
    w13_codes: uint8 [E, 2I, H], E4M3, the gate's I rows before the up projection's
    w13_scale: fp32 [E, 2I/R, G], for all or for 128 in-features of R rows
    w2_codes: uint8 [E, H, I]; w2_scale: fp32 [E, H/R, G]
    slots: topk_ids sorted for blocks of config.block_m, for more tokens than a decode step has
    config: for both matmuls; None for the choice of `nvfp4_dispatch`, which `slots` excludes
    Returns [T, H] in x's dtype. Sums are fp32; the activation's result is rounded to x's dtype, and
    with `slots` each slot's product.
    Raises ValueError on a shape, dtype, stride or activation that does not fit.
    """
    check_weight(w13_codes, w13_scale, dim=3)
    check_weight(w2_codes, w2_scale, dim=3)
    routing, w13 = (topk_ids, topk_weights), (w13_codes, w13_scale, None)
    w2 = (w2_codes, w2_scale, None)
    return run_experts("fp8", x, routing, w13, w2, activation, slots, config)
