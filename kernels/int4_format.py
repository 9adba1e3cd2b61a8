# SPDX-License-Identifier: Apache-2.0
"""Read the INT4 format: codes 0 to 15, a scale for each group of them along K, zero points.

    weight = (code - zero) * scale

compressed-tensors' `pack-quantized` holds eight codes in an int32. In memory that is two in a byte,
the one of even k in the low nibble. The zero of a symmetric format is 8. Otherwise each scale has a
zero of its own: a word holds those of eight rows, row n in nibble n % 8. G is the number of scales
in a row: 1 for scales per channel.
"""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._require import require

SYMMETRIC_ZERO = 8
ROWS_A_WORD = 8
# A group is a power of two, at least the in-features of two tensor-core steps.
MIN_GROUP = 32


def as_bytes(words: torch.Tensor) -> torch.Tensor:
    """View packed codes, int32 [..., K/8] and contiguous, as uint8 [..., K/2]."""
    require(words.dtype == torch.int32, "packed words must be int32, got %s", words.dtype)
    return words.view(torch.uint8)


def zero_points(words: torch.Tensor) -> torch.Tensor:
    """Unpack int32 [..., N/8, G] to int32 [..., N, G], each 0 to 15."""
    require(words.dtype == torch.int32, "zero points must be int32, got %s", words.dtype)
    shift = torch.arange(0, 32, 4, dtype=torch.int32, device=words.device)
    return ((words.unsqueeze(-2) >> shift[:, None]) & 15).flatten(-3, -2)


def dequantize(
    packed: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Compute the weights from codes, scales and zero points.

    packed: uint8 [..., N, K/2], two codes a byte along K, low nibble first
    scale: bf16, fp16 or fp32 [..., N, G], G a divisor of K
    zero: int32 [..., N/8, G], or None for a symmetric format
    Returns `dtype` [..., N, K]: the product in fp32, exact for scales of 16 bits, then converted.
    Raises ValueError on a dtype or shape that does not fit.
    """
    require(packed.dtype == torch.uint8, "packed must be uint8, got %s", packed.dtype)
    *rows, half = packed.shape
    groups = scale.shape[-1]
    fits = list(scale.shape[:-1]) == rows and groups > 0 and 2 * half % groups == 0
    require(fits, "scales of shape %s do not divide codes of %s", scale.shape, packed.shape)
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2).to(torch.int32)
    values = codes.unflatten(-1, (groups, -1))
    if zero is None:
        values = values - SYMMETRIC_ZERO
    else:
        expected = (*rows[:-1], rows[-1] // ROWS_A_WORD, groups)
        whole = rows[-1] % ROWS_A_WORD == 0 and tuple(zero.shape) == expected
        require(whole, "zero points must be %s, got %s", expected, zero.shape)
        values = values - zero_points(zero).unsqueeze(-1)
    return (values.float() * scale.float().unsqueeze(-1)).flatten(-2).to(dtype)
