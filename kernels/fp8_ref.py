# SPDX-License-Identifier: Apache-2.0
"""Compute FP8 linears and routed experts exactly: dequantize, then matmul in x's dtype."""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.dequantized_ref import dequantized_experts, dequantized_linear
from sglang_gemma4_ext.kernels.fp8_format import dequantize


def fp8_linear_ref(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute x w^T + bias, w = code * scale.

    x: floating [..., K]; any leading dimensions, also an empty batch
    codes: uint8 [N, K], E4M3; scale: fp32 [N/R, G], for all or for 128 in-features
    bias: [N] in x's dtype, or None
    Returns [..., N] in x's dtype: weights computed in fp32, rounded once to x's dtype, multiplied
    with PyTorch's accumulation for that dtype.
    Raises ValueError on a shape that does not fit.
    """
    rows, k = codes.shape
    require(x.shape[-1] == k, "x has K = %d, the codes have %d", x.shape[-1], k)

    joined = rows // max(1, len(scale))

    def weights(part: slice) -> torch.Tensor:
        chosen = torch.arange(part.start, min(part.stop, rows), device=codes.device) // joined
        return dequantize(codes[part], scale[chosen], x.dtype)

    return dequantized_linear(x, rows, weights, bias)


def fp8_experts_ref(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    w13_codes: torch.Tensor,
    w13_scale: torch.Tensor,
    w2_codes: torch.Tensor,
    w2_scale: torch.Tensor,
    activation: Activation,
) -> torch.Tensor:
    """Compute for each token the sum over its experts of weight * w2(act(gate(x)) * up(x)).

    x: floating [T, H]; T may be 0
    topk_ids: integer [T, k], 0 to E - 1; a negative id is skipped
    topk_weights: floating [T, k]
    w13_codes: uint8 [E, 2I, H], the gate's I rows before the up projection's
    w13_scale: fp32 [E, 2I, G]
    w2_codes: uint8 [E, H, I]; w2_scale: fp32 [E, H, G]
    Returns [T, H] in x's dtype; the sum over experts is in fp32.
    Raises ValueError on another activation, or shapes that do not fit.
    """

    def up(expert: int, tokens: torch.Tensor) -> torch.Tensor:
        return fp8_linear_ref(tokens, w13_codes[expert], w13_scale[expert])

    def down(expert: int, tokens: torch.Tensor) -> torch.Tensor:
        return fp8_linear_ref(tokens, w2_codes[expert], w2_scale[expert])

    return dequantized_experts(x, topk_ids, topk_weights, up, down, activation)
