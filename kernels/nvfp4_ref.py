# SPDX-License-Identifier: Apache-2.0
"""Compute NVFP4 linears and routed experts exactly: dequantize, then matmul in x's dtype.

T tokens, K in-features, N out-features, E experts, H hidden size, I intermediate size of an expert.
A tensor scale per row, not per tensor: linears stacked into one weight keep each their own.
"""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.dequantized_ref import dequantized_experts, dequantized_linear
from sglang_gemma4_ext.kernels.nvfp4_format import dequantize


def nvfp4_linear_ref(
    x: torch.Tensor,
    packed: torch.Tensor,
    block_scale: torch.Tensor,
    row_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute x w^T + bias, w = e2m1(packed) * block_scale * row_scale.

    x: floating [..., K]; any leading dimensions, also an empty batch
    packed: uint8 [N, K/2], two E2M1 per byte, low nibble first
    block_scale: float8_e4m3fn [N, K/16]
    row_scale: float32 [N]; multiplies
    bias: [N] in x's dtype, or None
    Returns [..., N] in x's dtype: weights computed in fp32, rounded once to x's dtype, multiplied
    with PyTorch's accumulation for that dtype.
    Raises ValueError on a shape or dtype that does not fit.
    """
    rows, half = packed.shape
    require(x.shape[-1] == 2 * half, "x has K = %d, packed has %d", x.shape[-1], 2 * half)
    require(row_scale.shape == (rows,), "row_scale must be [%d], got %s", rows, row_scale.shape)

    def weights(part: slice) -> torch.Tensor:
        return dequantize(packed[part], block_scale[part], row_scale[part].unsqueeze(-1), x.dtype)

    return dequantized_linear(x, rows, weights, bias)


def nvfp4_experts_ref(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    w13_packed: torch.Tensor,
    w13_block_scale: torch.Tensor,
    w13_row_scale: torch.Tensor,
    w2_packed: torch.Tensor,
    w2_block_scale: torch.Tensor,
    w2_row_scale: torch.Tensor,
    activation: Activation,
) -> torch.Tensor:
    """Compute for each token the sum over its experts of weight * w2(act(gate(x)) * up(x)).

    x: floating [T, H]; T may be 0
    topk_ids: integer [T, k], 0 to E - 1; a negative id is skipped
    topk_weights: floating [T, k]
    w13_packed: uint8 [E, 2I, H/2], the gate's I rows before the up projection's
    w13_block_scale: float8_e4m3fn [E, 2I, H/16]
    w13_row_scale: float32 [E, 2I]
    w2_packed: uint8 [E, H, I/2]
    w2_block_scale: float8_e4m3fn [E, H, I/16]
    w2_row_scale: float32 [E, H]
    Returns [T, H] in x's dtype; the sum over experts is in fp32.
    Raises ValueError on another activation, or shapes that do not fit.
    """

    def up(expert: int, tokens: torch.Tensor) -> torch.Tensor:
        w13 = (w13_packed[expert], w13_block_scale[expert], w13_row_scale[expert])
        return nvfp4_linear_ref(tokens, *w13)

    def down(expert: int, tokens: torch.Tensor) -> torch.Tensor:
        w2 = (w2_packed[expert], w2_block_scale[expert], w2_row_scale[expert])
        return nvfp4_linear_ref(tokens, *w2)

    return dequantized_experts(x, topk_ids, topk_weights, up, down, activation)
