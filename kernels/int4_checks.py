# SPDX-License-Identifier: Apache-2.0
"""Check the tensors that the INT4 kernels take."""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.int4_format import MIN_GROUP, ROWS_A_WORD

SCALES = (torch.bfloat16, torch.float16, torch.float32)


def check_weight(
    packed: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, dim: int
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
    k = 2 * half
    require(half % 16 == 0, "K must be a multiple of 32, packed has %d", k)
    groups = scale.shape[-1] if scale.dim() == dim else 0
    fits = scale.dtype in SCALES and scale.shape == (*stack, rows, groups) and groups > 0
    require(
        fits and k % groups == 0 and (groups == 1 or _is_group(k // groups)),
        "scale must be bfloat16, float16 or float32 %s for one scale a row or for a power of two "
        "of weights, from %d on; got %s %s for K = %d",
        (*stack, rows, "G"),
        MIN_GROUP,
        scale.dtype,
        scale.shape,
        k,
    )
    if zero is not None:
        expected = (*stack, rows // ROWS_A_WORD, groups)
        require(
            zero.dtype == torch.int32 and rows % ROWS_A_WORD == 0 and zero.shape == expected,
            "zero must be int32 %s, got %s %s",
            expected,
            zero.dtype,
            zero.shape,
        )
        require(zero.is_contiguous(), "zero must be contiguous")
    require(packed.is_contiguous(), "packed must be contiguous")
    require(scale.is_contiguous(), "scale must be contiguous")
    return rows, k


def _is_group(size: int) -> bool:
    return size >= MIN_GROUP and size & (size - 1) == 0
