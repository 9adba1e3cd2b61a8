# SPDX-License-Identifier: Apache-2.0
"""What the NVFP4 kernels require of their tensors, each refusal in one sentence."""

from __future__ import annotations

import torch
import triton

from sglang_gemma4_ext.kernels.nvfp4_format import BLOCK


def check_weight(
    packed: torch.Tensor, block_scale: torch.Tensor, row_scale: torch.Tensor, dim: int
) -> tuple[int, int]:
    """Rows N and in-features K of a packed weight of `dim` dimensions. Raises ValueError."""
    _require(
        packed.dtype == torch.uint8 and packed.dim() == dim,
        f"packed must be uint8 with {dim} dimensions, got {packed.dtype} {tuple(packed.shape)}",
    )
    *stack, rows, half = packed.shape
    _require(half % (BLOCK // 2) == 0, f"K must be a multiple of 16, packed has {2 * half}")
    expected = (*stack, rows, half // (BLOCK // 2))
    _require(
        block_scale.dtype == torch.float8_e4m3fn and block_scale.shape == expected,
        f"block_scale must be float8_e4m3fn {expected}, got {block_scale.dtype} "
        f"{tuple(block_scale.shape)}",
    )
    _require(
        row_scale.dtype == torch.float32 and row_scale.shape == (*stack, rows),
        f"row_scale must be float32 {(*stack, rows)}, got {row_scale.dtype} "
        f"{tuple(row_scale.shape)}",
    )
    tensors = {"packed": packed, "block_scale": block_scale, "row_scale": row_scale}
    for name, tensor in tensors.items():
        _require(tensor.is_contiguous(), f"{name} must be contiguous")
    return rows, 2 * half


def check_activations(x: torch.Tensor, k: int) -> torch.Tensor:
    """x [..., K] as a [T, K] view with one stride for all rows. Raises ValueError."""
    _require(x.dim() > 0 and x.shape[-1] == k, f"x has shape {tuple(x.shape)}, K is {k}")
    allowed = (torch.bfloat16, torch.float16)
    if triton.knobs.runtime.interpret:
        allowed = (*allowed, torch.float32)
    _require(
        x.dtype in allowed,
        f"x is {x.dtype}; the NVFP4 kernels take bfloat16 or float16 activations: start with "
        "--dtype bfloat16",
    )
    _require(x.numel() == 0 or x.stride(-1) == 1, "the last dimension of x must be contiguous")
    try:
        return x.view(-1, k) if x.numel() else x.reshape(0, k)
    except RuntimeError:
        raise ValueError(f"the rows of x must have one stride, got {x.stride()}") from None


def check_routing(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    activation: str,
    w13_packed: torch.Tensor,
    w2_packed: torch.Tensor,
) -> None:
    """Routing and the two weights fit each other and x [T, H]. Raises ValueError."""
    _require(activation in ("gelu_tanh", "silu"), f"{activation=} is not gelu_tanh or silu")
    _require(
        topk_ids.dim() == 2 and topk_ids.shape == topk_weights.shape and len(topk_ids) == len(x),
        f"routing of shape {tuple(topk_ids.shape)} and {tuple(topk_weights.shape)} for "
        f"x of shape {tuple(x.shape)}",
    )
    _require(
        topk_ids.dtype in (torch.int32, torch.int64) and topk_weights.is_floating_point(),
        f"routing must be integer ids and floating weights, got {topk_ids.dtype}, "
        f"{topk_weights.dtype}",
    )
    _require(
        topk_ids.is_contiguous() and topk_weights.is_contiguous(), "routing must be contiguous"
    )
    experts, rows, half = w13_packed.shape
    _require(
        w2_packed.shape == (experts, 2 * half, rows // 4) and rows % 2 == 0,
        f"w13 of shape {tuple(w13_packed.shape)} and w2 of {tuple(w2_packed.shape)} are not "
        "the same experts",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
