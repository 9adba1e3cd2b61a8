# SPDX-License-Identifier: Apache-2.0
"""Define the NVFP4 format: E2M1 codes, an E4M3 scale per 16 along K, an fp32 tensor scale.

    weight = e2m1(code) * block_scale * tensor_scale

A code is sign (bit 3), exponent (bits 2-1, bias 1), mantissa (bit 0): 0, 0.5, 1, 1.5, 2, 3, 4, 6
and their negatives, including -0. `tensor_scale` multiplies: it is ModelOpt's `weight_scale_2`, and
the reciprocal of compressed-tensors' `weight_global_scale`.
"""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK

E2M1_MAX = 6.0
E4M3_MAX = 448.0
E4M3_MIN_SUBNORMAL = 2.0**-9


def pack_e2m1(codes: torch.Tensor) -> torch.Tensor:
    """Pack two codes into a byte, the one of even k into the low nibble.

    codes: uint8 [..., K], each 0 to 15; K even
    Returns uint8 [..., K/2].
    Raises ValueError on another dtype, an odd K or a code above 15.
    """
    require(codes.dtype == torch.uint8, "codes must be uint8, got %s", codes.dtype)
    even = codes.dim() > 0 and codes.shape[-1] % 2 == 0
    require(even, "K must be even, got codes of shape %s", codes.shape)
    require(not bool((codes > 15).any()), "codes must be 0 to 15")
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack_e2m1(packed: torch.Tensor) -> torch.Tensor:
    """Invert `pack_e2m1`.

    packed: uint8 [..., K/2]
    Returns uint8 [..., K], each 0 to 15.
    Raises ValueError on another dtype.
    """
    require(packed.dtype == torch.uint8, "packed must be uint8, got %s", packed.dtype)
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)


def e2m1_values(packed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Decode codes to numbers, without any scale.

    packed: uint8 [..., K/2]
    Returns `dtype` [..., K], exact in fp16, bf16, fp32 and fp64. It uses integer arithmetic, so
    that no table is copied to the device.
    """
    code = unpack_e2m1(packed).to(torch.int32)
    exponent, mantissa = (code >> 1) & 3, code & 1
    normal = (2 + mantissa) << (exponent - 1).clamp(min=0)
    value = torch.where(exponent == 0, mantissa, normal).to(dtype) / 2
    return torch.where(code < 8, value, -value)


def tensor_scale_for(amax: torch.Tensor) -> torch.Tensor:
    """Compute the fp32 scale with which the largest weight is 6 in a block of scale 448.

    amax: the largest magnitude of the tensor, or of the tensors that share the scale; any shape
    """
    return amax.float() / (E2M1_MAX * E4M3_MAX)


def quantize(w: torch.Tensor, tensor_scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round weights to NVFP4, bit for bit as ModelOpt's NVFP4QTensor.

    w: floating [..., N, K], K a multiple of 16
    tensor_scale: floating, positive, scalar or [..., N, 1]; multiplies
    Returns (packed uint8 [..., N, K/2], block_scale float8_e4m3fn [..., N, K/16]).
    Arithmetic in fp32. A code is the nearest, ties to the even code; magnitudes beyond 6 saturate.
    A block's scale is amax / 6, kept within E4M3's positive range; a block of zeros gets 1.
    Raises ValueError on a K, dtype, shape or sign that does not fit.
    """
    require(w.is_floating_point(), "w must be floating, got %s", w.dtype)
    whole = w.dim() >= 2 and w.shape[-1] % BLOCK == 0
    require(whole, "K must be a multiple of 16, got w of shape %s", w.shape)
    scale = _row_scale(tensor_scale, w.shape[:-1])
    require(bool((scale > 0).all()), "tensor_scale must be positive")
    blocks = w.float().unflatten(-1, (-1, BLOCK))
    block_scale = blocks.abs().amax(-1) / (E2M1_MAX * scale)
    block_scale = torch.where(block_scale == 0, 1.0, block_scale)
    block_scale = block_scale.clamp(E4M3_MIN_SUBNORMAL, E4M3_MAX).to(torch.float8_e4m3fn)
    scaled = (blocks / (block_scale.float() * scale).unsqueeze(-1)).flatten(-2)
    # A midpoint rounds up exactly where the code above it is even: below 1, 2 and 4.
    magnitude = scaled.abs()
    code = sum((magnitude > m).to(torch.uint8) for m in (0.25, 1.25, 2.5, 5.0))
    code = code + sum((magnitude >= m).to(torch.uint8) for m in (0.75, 1.75, 3.5))
    return pack_e2m1(code | ((scaled < 0).to(torch.uint8) << 3)), block_scale


def dequantize(
    packed: torch.Tensor,
    block_scale: torch.Tensor,
    tensor_scale: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Compute the weights from codes, block scales and tensor scale.

    packed: uint8 [..., N, K/2], two codes per byte along K, low nibble first
    block_scale: float8_e4m3fn or float32 [..., N, K/16]
    tensor_scale: floating, scalar or [..., N, 1]; multiplies
    Returns `dtype` [..., N, K]: computed in fp32, then converted. In fp32 code times E4M3 scale is
    exact, and the tensor scale rounds once.
    Raises ValueError on a dtype or shape that does not fit.
    """
    require(packed.dtype == torch.uint8, "packed must be uint8, got %s", packed.dtype)
    require(
        packed.dim() >= 2 and packed.shape[-1] % (BLOCK // 2) == 0,
        "K must be a multiple of 16, got packed of shape %s",
        packed.shape,
    )
    require(
        block_scale.dtype in (torch.float8_e4m3fn, torch.float32),
        "block_scale must be float8_e4m3fn or float32, got %s",
        block_scale.dtype,
    )
    expected = (*packed.shape[:-1], packed.shape[-1] // (BLOCK // 2))
    require(
        tuple(block_scale.shape) == expected,
        "block_scale must be %s, got %s",
        expected,
        block_scale.shape,
    )
    scale = _row_scale(tensor_scale, packed.shape[:-1]).unsqueeze(-1)
    values = e2m1_values(packed, torch.float32).unflatten(-1, (-1, BLOCK))
    return (values * block_scale.float().unsqueeze(-1) * scale).flatten(-2).to(dtype)


def _row_scale(tensor_scale: torch.Tensor, rows: torch.Size) -> torch.Tensor:
    """Return the scale in fp32: a scalar as [1, 1], otherwise [..., N, 1]; `rows` is [..., N]."""
    require(
        tensor_scale.is_floating_point(),
        "tensor_scale must be floating, got %s",
        tensor_scale.dtype,
    )
    if tensor_scale.numel() == 1:
        return tensor_scale.float().reshape(1, 1)
    require(
        tuple(tensor_scale.shape) == (*rows, 1),
        "tensor_scale must be a scalar or %s, got %s",
        (*rows, 1),
        tensor_scale.shape,
    )
    return tensor_scale.float()
