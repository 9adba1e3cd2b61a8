# SPDX-License-Identifier: Apache-2.0
"""Read the FP8 format: E4M3 codes, a byte a weight, and fp32 scales.

    weight = code * scale

Checkpoints have one scale a tensor, one a row, or one for each block of 128 x 128. All become
scales per row, fp32 [.., N, G]: G is 1, or K/128 rounded up for blocks. Then R neighbouring rows
that have equal scales may share them, [.., N/R, G].
"""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._require import require

# Rows and in-features of a block.
BLOCK = 128


def scales_a_row(k: int, blocks: bool) -> int:
    """Return how many scales a row of k in-features has."""
    return -(-k // BLOCK) if blocks else 1


def spread(scale: torch.Tensor, rows: int, k: int, blocks: bool) -> torch.Tensor:
    """Spread a checkpoint's scales over rows: returns fp32 [rows, G], contiguous.

    scale: floating; [] or [1] for the tensor, [rows] or [rows, 1], or [rows/128, k/128] rounded up,
        also as ModelOpt has it, [rows/128, 1, k/128, 1]
    Raises ValueError on another shape.
    """
    if blocks and scale.dim() == 4:
        scale = scale[:, 0, :, 0]
    groups = scales_a_row(k, blocks)
    expected = (-(-rows // BLOCK), groups) if blocks else (rows, 1)
    if scale.numel() == 1 and expected != (1, 1):
        return scale.float().reshape(1, 1).repeat(rows, groups)
    fits = tuple(scale.shape) == expected or (not blocks and tuple(scale.shape) == (rows,))
    require(fits, "scales of shape %s where %s are expected", scale.shape, expected)
    scale = scale.float().reshape(expected)
    return scale.repeat_interleave(BLOCK, dim=0)[:rows].contiguous() if blocks else scale


def shared(scale: torch.Tensor) -> torch.Tensor:
    """Join neighbouring rows with equal scales: fp32 [.., N, G] to [.., N/R, G], R a power of two.

    One scale a row costs little and is returned as it is.
    """
    if scale.shape[-1] == 1:
        return scale
    joined = BLOCK
    while joined > 1:
        if scale.shape[-2] % joined == 0:
            rows = scale.unflatten(-2, (-1, joined))
            if bool((rows == rows[..., :1, :]).all()):
                return rows[..., 0, :].contiguous()
        joined //= 2
    return scale


def dequantize(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Compute the weights from codes and scales per row.

    codes: uint8 or float8_e4m3fn [.., N, K]; scale: fp32 [.., N/R, G], G as in `scales_a_row`
    Returns `dtype` [.., N, K]: the product in fp32, then converted.
    Raises ValueError on a shape that does not fit.
    """
    groups, (rows, k) = scale.shape[-1], codes.shape[-2:]
    whole = scale.shape[:-2] == codes.shape[:-2] and rows % scale.shape[-2] == 0
    require(
        whole and groups in (1, scales_a_row(k, True)),
        "scales of shape %s for codes of %s",
        scale.shape,
        codes.shape,
    )
    values = codes.view(torch.float8_e4m3fn).float()
    scale = scale.repeat_interleave(rows // scale.shape[-2], dim=-2)
    if groups == 1:
        return values.mul_(scale).to(dtype)
    return values.mul_(scale.repeat_interleave(BLOCK, dim=-1)[..., :k]).to(dtype)
