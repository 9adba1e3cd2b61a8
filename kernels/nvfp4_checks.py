# SPDX-License-Identifier: Apache-2.0
"""Check the tensors that the NVFP4 kernels take."""

from __future__ import annotations

import torch
import triton

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.activation import ACTIVATIONS
from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK


def check_weight(
    packed: torch.Tensor, block_scale: torch.Tensor, row_scale: torch.Tensor, dim: int
) -> tuple[int, int]:
    """Check a packed weight of `dim` dimensions; return its rows N and in-features K.

    Raises ValueError.
    """
    require(
        packed.dtype == torch.uint8 and packed.dim() == dim,
        "packed must be uint8 with %d dimensions, got %s %s",
        dim,
        packed.dtype,
        packed.shape,
    )
    *stack, rows, half = packed.shape
    require(half % (BLOCK // 2) == 0, "K must be a multiple of 16, packed has %d", 2 * half)
    expected = (*stack, rows, half // (BLOCK // 2))
    require(
        block_scale.dtype == torch.float8_e4m3fn and block_scale.shape == expected,
        "block_scale must be float8_e4m3fn %s, got %s %s",
        expected,
        block_scale.dtype,
        block_scale.shape,
    )
    require(
        row_scale.dtype == torch.float32 and row_scale.shape == (*stack, rows),
        "row_scale must be float32 %s, got %s %s",
        (*stack, rows),
        row_scale.dtype,
        row_scale.shape,
    )
    require(packed.is_contiguous(), "packed must be contiguous")
    require(block_scale.is_contiguous(), "block_scale must be contiguous")
    require(row_scale.is_contiguous(), "row_scale must be contiguous")
    return rows, 2 * half


def check_activations(x: torch.Tensor, k: int) -> torch.Tensor:
    """Return x [..., K] as a [T, K] view with one stride for all rows. Raises ValueError."""
    require(x.dim() > 0 and x.shape[-1] == k, "x has shape %s, K is %d", x.shape, k)
    allowed: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)
    if triton.knobs.runtime.interpret:
        allowed = (*allowed, torch.float32)
    require(
        x.dtype in allowed,
        "x is %s; the NVFP4 kernels take bfloat16 or float16 activations: start with "
        "--dtype bfloat16",
        x.dtype,
    )
    require(x.numel() == 0 or x.stride(-1) == 1, "the last dimension of x must be contiguous")
    try:
        return x.view(-1, k) if x.numel() else x.reshape(0, k)
    except RuntimeError:
        raise ValueError(f"the rows of x must have one stride, got {x.stride()}") from None


def check_experts(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    w13: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    w2: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    activation: str,
) -> tuple[torch.Tensor, int]:
    """Check activations, routing and experts; return x as [T, H] and the in-features I of w2.

    Raises ValueError.

    w13, w2: packed, block and row scales, as `nvfp4_experts` has them
    """
    rows, hidden = check_weight(*w13, dim=3)
    _, inner = check_weight(*w2, dim=3)
    tokens = check_activations(x, hidden)
    check_activation(activation)
    check_routing(x, topk_ids, topk_weights)
    require(
        w2[0].shape[:2] == (len(w13[0]), hidden) and rows == 2 * inner,
        "w13 of shape %s and w2 of %s are not the same experts",
        w13[0].shape,
        w2[0].shape,
    )
    return tokens, inner


def check_routing(x: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> None:
    """Check ids and weights [T, k] for x [T, H]. Raises ValueError."""
    require(
        topk_ids.dim() == 2 and topk_ids.shape == topk_weights.shape and len(topk_ids) == len(x),
        "routing of shape %s and %s for x of shape %s",
        topk_ids.shape,
        topk_weights.shape,
        x.shape,
    )
    require(
        topk_ids.dtype in (torch.int32, torch.int64) and topk_weights.is_floating_point(),
        "routing must be integer ids and floating weights, got %s, %s",
        topk_ids.dtype,
        topk_weights.dtype,
    )
    contiguous = topk_ids.is_contiguous() and topk_weights.is_contiguous()
    require(contiguous, "routing must be contiguous")


def check_activation(activation: str) -> None:
    require(activation in ACTIVATIONS, "activation %r is not gelu_tanh or silu", activation)
