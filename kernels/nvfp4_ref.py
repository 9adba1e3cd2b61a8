# SPDX-License-Identifier: Apache-2.0
"""Compute NVFP4 linears and routed experts exactly: dequantize, then matmul in x's dtype.

T tokens, K in-features, N out-features, E experts, H hidden size, I intermediate size of an expert.
A tensor scale per row, not per tensor: linears stacked into one weight keep each their own.
"""

from __future__ import annotations

import torch
from torch.nn.functional import gelu, linear, silu

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.activation import ACTIVATIONS, Activation
from sglang_gemma4_ext.kernels.nvfp4_format import dequantize

# Limits of rows and of weights that are dequantized at a time. A matrix of vocabulary size is never
# whole in memory. PyTorch needs 34 bytes a weight on the way to fp32, which is 143 MB at most.
ROWS = 16_384
WEIGHTS = 1 << 22


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
    out = x.new_empty((*x.shape[:-1], rows))
    chunk = max(1, min(ROWS, WEIGHTS // max(1, 2 * half)))
    for start in range(0, rows, chunk):
        part = slice(start, start + chunk)
        w = dequantize(packed[part], block_scale[part], row_scale[part].unsqueeze(-1), x.dtype)
        out[..., part] = linear(x, w, None if bias is None else bias[part])
    return out


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
    require(activation in ACTIVATIONS, "activation %r is not gelu_tanh or silu", activation)
    require(
        topk_ids.shape == topk_weights.shape and len(topk_ids) == len(x),
        "routing of shape %s and %s for x of shape %s",
        topk_ids.shape,
        topk_weights.shape,
        x.shape,
    )
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in topk_ids.unique().tolist():
        if expert < 0:
            continue
        token, slot = torch.where(topk_ids == expert)
        w13 = (w13_packed[expert], w13_block_scale[expert], w13_row_scale[expert])
        w2 = (w2_packed[expert], w2_block_scale[expert], w2_row_scale[expert])
        gate, up = nvfp4_linear_ref(x[token], *w13).chunk(2, dim=-1)
        gate = silu(gate) if activation == "silu" else gelu(gate, approximate="tanh")
        y = nvfp4_linear_ref(gate * up, *w2).float()
        out.index_add_(0, token, y * topk_weights[token, slot].float().unsqueeze(-1))
    return out.to(x.dtype)
