# SPDX-License-Identifier: Apache-2.0
"""Multiply by weights that are dequantized some rows at a time: what the formats' references share.

T tokens, K in-features, N out-features, E experts, H hidden size, I intermediate size of an expert.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import gelu, linear, silu

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.activation import ACTIVATIONS, Activation

# Limits of rows and of weights that are dequantized at a time. A matrix of vocabulary size is never
# whole in memory. PyTorch needs 34 bytes a weight on the way to fp32, which is 143 MB at most.
ROWS = 16_384
WEIGHTS = 1 << 22
# Eight rows of INT4 share a word of zero points.
_TOGETHER = 8


def dequantized_linear(
    x: torch.Tensor,
    rows: int,
    dequantize: Callable[[slice], torch.Tensor],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute x w^T + bias with the rows of w that `dequantize` gives, in x's dtype.

    x: floating [..., K]; any leading dimensions, an empty batch included
    rows: N. dequantize: from a slice of rows, which starts at a multiple of 8, to its weights
    bias: [N] in x's dtype, or None
    Returns [..., N] in x's dtype, with PyTorch's accumulation for that dtype.
    """
    out = x.new_empty((*x.shape[:-1], rows))
    chunk = max(1, min(ROWS, WEIGHTS // max(1, x.shape[-1])) // _TOGETHER) * _TOGETHER
    for start in range(0, rows, chunk):
        part = slice(start, start + chunk)
        out[..., part] = linear(x, dequantize(part), None if bias is None else bias[part])
    return out


def dequantized_experts(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    up: Callable[[int, torch.Tensor], torch.Tensor],
    down: Callable[[int, torch.Tensor], torch.Tensor],
    activation: Activation,
) -> torch.Tensor:
    """For each token, the sum over its experts of weight * w2(act(gate(x)) * up(x)).

    x: floating [T, H]; T may be 0
    topk_ids: integer [T, k], 0 to E - 1; a negative id is skipped
    topk_weights: floating [T, k]
    up, down: from an expert and its tokens to the results of its w13 [.., 2I], gate before up, and
        of its w2 [.., H]
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
        gate, right = up(expert, x[token]).chunk(2, dim=-1)
        gate = silu(gate) if activation == "silu" else gelu(gate, approximate="tanh")
        y = down(expert, gate * right).float()
        out.index_add_(0, token, y * topk_weights[token, slot].float().unsqueeze(-1))
    return out.to(x.dtype)
