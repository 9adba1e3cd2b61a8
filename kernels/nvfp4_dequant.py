# SPDX-License-Identifier: Apache-2.0
"""Dequantize NVFP4 weights to BF16, FP16 or FP32, bit for bit as `nvfp4_format.dequantize`.

This is for baselines and conversions. The matmuls decode in registers. The reference behind
--gemma4-weights dequant unpacks some rows of N at a time in PyTorch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._nvfp4_tile import decode, e4m3_as_fp16
from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def _dequant_kernel(
    packed_ptr,
    scale_ptr,
    tensor_scale_ptr,
    out_ptr,
    blocks,
    PER_ROW: tl.constexpr,
    E4M3: tl.constexpr,
    BLOCKS: tl.constexpr,
    PLAIN: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < blocks
    byte = tl.arange(0, 8)
    first = row * blocks + block
    packed = tl.load(packed_ptr + first[:, None] * 8 + byte[None, :], mask=inside[:, None], other=0)
    scale = tl.load(scale_ptr + first, mask=inside, other=0)
    if E4M3:
        is_nan = (scale & 0x7F) == 0x7F
        scale = tl.where(is_nan, float("nan"), e4m3_as_fp16(scale).to(tl.float32) * 256.0)
    tensor_scale = tl.load(tensor_scale_ptr + (row if PER_ROW else 0))
    even, odd = decode(packed, PLAIN)
    # The order of the products gives the reference's two roundings.
    even = even.to(tl.float32) * 16384.0 * scale[:, None] * tensor_scale
    odd = odd.to(tl.float32) * 16384.0 * scale[:, None] * tensor_scale
    out = tl.join(even, odd).reshape(BLOCKS, 16).to(out_ptr.dtype.element_ty)
    element = tl.arange(0, 16)
    tl.store(out_ptr + first[:, None] * 16 + element[None, :], out, mask=inside[:, None])


def dequant(
    packed: torch.Tensor,
    block_scale: torch.Tensor,
    tensor_scale: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Dequantize on a GPU, with the result of `nvfp4_format.dequantize`.

    packed: uint8 [N, K/2] or [E, N, K/2], two codes per byte, low nibble first; contiguous
    block_scale: float8_e4m3fn or float32 [.., N, K/16], contiguous; NaN scales give NaN weights
    tensor_scale: float32 scalar, [N, 1] or [E, N, 1]; multiplies
    Returns `dtype` [.., N, K], one of bf16, fp16, fp32; computed in fp32, then rounded once.
    Raises ValueError on a dtype, shape or stride that does not fit.
    """
    k = 2 * packed.shape[-1]
    _check(packed, block_scale, tensor_scale, dtype)
    out = torch.empty((*packed.shape[:-1], k), dtype=dtype, device=packed.device)
    per_row = tensor_scale.numel() != 1
    rows = packed.numel() // max(packed.shape[-1], 1)
    e4m3 = block_scale.dtype == torch.float8_e4m3fn
    interpreted = triton.knobs.runtime.interpret
    # In the interpreter a program takes a whole row, because time grows with their number.
    blocks = triton.next_power_of_2(k // BLOCK) if interpreted else 64
    if rows and k:
        _dequant_kernel[(rows, triton.cdiv(k // BLOCK, blocks))](
            packed,
            block_scale.view(torch.uint8) if e4m3 else block_scale,
            tensor_scale.contiguous(),
            out,
            k // BLOCK,
            PER_ROW=per_row,
            E4M3=e4m3,
            BLOCKS=blocks,
            PLAIN=interpreted,
        )
    return out


def _check(
    packed: torch.Tensor,
    block_scale: torch.Tensor,
    tensor_scale: torch.Tensor,
    dtype: torch.dtype,
) -> None:
    require(packed.dtype == torch.uint8, "packed must be uint8, got %s", packed.dtype)
    require(packed.dim() in (2, 3), "packed must be 2-D or 3-D, got %s", packed.shape)
    *rows, half = packed.shape
    require(half % (BLOCK // 2) == 0, "K must be a multiple of 16, got %d", 2 * half)
    require(dtype in DTYPES, "out is bf16, fp16 or fp32, not %s", dtype)
    expected = (*rows, half // (BLOCK // 2))
    require(
        block_scale.dtype in (torch.float8_e4m3fn, torch.float32) and block_scale.shape == expected,
        "block_scale must be float8_e4m3fn or float32 %s, got %s %s",
        expected,
        block_scale.dtype,
        block_scale.shape,
    )
    fits = tensor_scale.numel() == 1 or tensor_scale.shape == (*rows, 1)
    require(
        tensor_scale.dtype == torch.float32 and fits,
        "tensor_scale must be float32, a scalar or %s, got %s %s",
        (*rows, 1),
        tensor_scale.dtype,
        tensor_scale.shape,
    )
    for name, tensor in (("packed", packed), ("block_scale", block_scale)):
        require(tensor.is_contiguous(), "%s must be contiguous", name)
