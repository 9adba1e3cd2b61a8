# SPDX-License-Identifier: Apache-2.0
"""Compute INT4 linears and routed experts exactly: dequantize, then matmul in x's dtype."""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.dequantized_ref import dequantized_experts, dequantized_linear
from sglang_gemma4_ext.kernels.int4_format import ROWS_A_WORD, dequantize


def int4_linear_ref(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute x w^T + bias, w = (code - zero) * scale.

    x: floating [..., K]; any leading dimensions, also an empty batch
    packed: uint8 [N, K/2], two codes a byte, low nibble first
    scale: floating [N, G]
    zero: int32 [N/8, G], or None for a symmetric format
    bias: [N] in x's dtype, or None
    Returns [..., N] in x's dtype: weights computed in fp32, rounded once to x's dtype, multiplied
    with PyTorch's accumulation for that dtype.
    Raises ValueError on a shape or dtype that does not fit.
    """
    rows, half = packed.shape
    require(x.shape[-1] == 2 * half, "x has K = %d, packed has %d", x.shape[-1], 2 * half)

    def weights(part: slice) -> torch.Tensor:
        words = slice(part.start // ROWS_A_WORD, part.stop // ROWS_A_WORD)
        return dequantize(packed[part], scale[part], None if zero is None else zero[words], x.dtype)

    return dequantized_linear(x, rows, weights, bias)


def int4_experts_ref(
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
) -> torch.Tensor:
    """Compute for each token the sum over its experts of weight * w2(act(gate(x)) * up(x)).

    x: floating [T, H]; T may be 0
    topk_ids: integer [T, k], 0 to E - 1; a negative id is skipped
    topk_weights: floating [T, k]
    w13_packed: uint8 [E, 2I, H/2], the gate's I rows before the up projection's
    w13_scale: floating [E, 2I, G]; w13_zero: int32 [E, 2I/8, G] or None
    w2_packed: uint8 [E, H, I/2]
    w2_scale: floating [E, H, G]; w2_zero: int32 [E, H/8, G] or None
    Returns [T, H] in x's dtype; the sum over experts is in fp32.
    Raises ValueError on another activation, or shapes that do not fit.
    """

    def up(expert: int, tokens: torch.Tensor) -> torch.Tensor:
        zero = None if w13_zero is None else w13_zero[expert]
        return int4_linear_ref(tokens, w13_packed[expert], w13_scale[expert], zero)

    def down(expert: int, tokens: torch.Tensor) -> torch.Tensor:
        zero = None if w2_zero is None else w2_zero[expert]
        return int4_linear_ref(tokens, w2_packed[expert], w2_scale[expert], zero)

    return dequantized_experts(x, topk_ids, topk_weights, up, down, activation)
