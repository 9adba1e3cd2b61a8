# SPDX-License-Identifier: Apache-2.0
"""Multiply a tile of INT4 weights by a tile of activations, for all INT4 kernels.

As for NVFP4, out^T = w x^T, and the even and the odd k of a byte are two dots.

A code in the low bits of the FP16 1024 gives 1024 + code, and so does a zero point. Their
difference is exact. Multiplied by its group's scale, in fp32, it is rounded once, to the
activations' dtype. A scale per row is applied to the result, so the weights of the dots are whole
numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._nvfp4_tile import in_quarters
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config


def launch_arguments(config: Config, k: int, scale: torch.Tensor) -> dict[str, Any]:
    """Build the arguments that every kernel with `multiply_int4` takes, for in-features k.

    scale: [.., N, G]; a row stride is passed as in `_nvfp4_tile.launch_arguments`
    """
    groups = scale.shape[-1]
    alignment = {name: min(16, size & -size) for name, size in (("b", k // 2), ("s", groups))}
    return {
        "bytes_a_row": k // 2 // alignment["b"],
        "scales_a_row": groups // alignment["s"],
        "BYTES_ALIGN": alignment["b"],
        "SCALES_ALIGN": alignment["s"],
        "GROUP": 0 if groups == 1 else k // groups,
        "ROWS_A_SCALE": 1,
        "EVEN_K": k % config.block_k == 0,
        "WGMMA": config.wgmma,
        "PLAIN": triton.knobs.runtime.interpret,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }


# Decode four bytes to 2 x 4 FP16, in order, two bytes at a time. prmt puts a byte into the low half
# of a 16-bit lane; ptxas merges each and, or.
_DECODE_TWO = """
prmt.b32 t, $4, 0, {selector};
and.b32 u, t, 0x000f000f;
or.b32 {even}, u, 0x64006400;
shr.b32 v, t, 4;
and.b32 v, v, 0x000f000f;
or.b32 {odd}, v, 0x64006400;
"""
DECODE_PTX = tl.constexpr(
    "{\n.reg .b32 t, u, v;"
    + _DECODE_TWO.format(selector="0x4140", even="$0", odd="$2")
    + _DECODE_TWO.format(selector="0x4342", even="$1", odd="$3")
    + "}"
)


@triton.jit
def decode_int4(packed, PLAIN: tl.constexpr):
    """Decode uint8 [..] to fp16 [..] of the even k and of the odd k, each 1024 + code.

    PLAIN: use plain expressions; Triton's interpreter has no inline assembly.
    """
    if PLAIN:
        byte = packed.to(tl.uint16)
        even = (byte & 0x0F) | 0x6400
        odd = (byte >> 4) | 0x6400
        return even.to(tl.float16, bitcast=True), odd.to(tl.float16, bitcast=True)
    return tl.inline_asm_elementwise(
        DECODE_PTX,
        "=&r,=&r,=&r,=&r,r",
        [packed],
        dtype=(tl.float16, tl.float16),
        is_pure=True,
        pack=4,
    )


@triton.jit
def _values(codes, zero, scale, ROWS: tl.constexpr, GROUPS: tl.constexpr, EACH: tl.constexpr):
    """Return (code - zero) * scale of [ROWS, GROUPS * EACH]: fp32, or exact fp16 without a scale.

    codes, zero: fp16, zero [ROWS, GROUPS], each with 1024 added; scale: [ROWS, GROUPS] or None
    """
    values = codes.reshape(ROWS, GROUPS, EACH) - zero[:, :, None]
    if scale is not None:
        values = values.to(tl.float32) * scale.to(tl.float32)[:, :, None]
    return values.reshape(ROWS, GROUPS * EACH)


@triton.jit
def multiply_int4(
    x_rows,
    x_mask,
    packed_ptr,
    scale_ptr,
    zero_ptr,
    rows,
    packed_stride,
    scale_stride,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    WGMMA: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Compute fp32 [BLOCK_N, BLOCK_M]: w x^T over all of K.

    x_rows: pointers [BLOCK_M] to fp16, bf16 or fp32 rows; x_mask: [BLOCK_M], rows to read
    rows: int64 [BLOCK_N], rows of the weight, all of which are read
    packed_stride, scale_stride: bytes and scales in a row; zero_ptr: None for a zero of 8
    GROUP: in-features that share a scale, a power of two; 0 for a scale per row
    EVEN_K: K consists of whole tiles of BLOCK_K
    WGMMA: Triton uses wgmma for the tile, see `in_quarters`
    """
    EACH: tl.constexpr = GROUP if GROUP > 0 and GROUP < BLOCK_K else BLOCK_K
    GROUPS: tl.constexpr = BLOCK_K // EACH
    byte = tl.arange(0, BLOCK_K // 2)
    part = tl.arange(0, GROUPS)
    element = tl.arange(0, BLOCK_K)
    packed_rows = packed_ptr + rows * packed_stride
    scale_rows = scale_ptr + rows * scale_stride
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for k in range(0, packed_stride, BLOCK_K // 2):
        packed_at = packed_rows[:, None] + (k + byte)[None, :]
        x_at = x_rows[:, None] + (2 * k + element)[None, :]
        # Behind the last group a code is 0 and meets an activation of 0.
        inside = (2 * k + part * EACH < 2 * packed_stride)[None, :]
        group = part if GROUP == 0 else 2 * k // GROUP + part
        if EVEN_K:
            packed = tl.load(packed_at)
            x = tl.load(x_at, mask=x_mask[:, None], other=0.0)
        else:
            packed = tl.load(packed_at, mask=(k + byte < packed_stride)[None, :], other=0)
            x_inside = x_mask[:, None] & (2 * k + element < 2 * packed_stride)[None, :]
            x = tl.load(x_at, mask=x_inside, other=0.0)
        even, odd = decode_int4(packed, PLAIN)
        zero = tl.full([BLOCK_N, GROUPS], 1032.0, tl.float16)
        if zero_ptr is not None:
            at = zero_ptr + (rows // 8 * scale_stride)[:, None] + group[None, :]
            words = tl.load(at) if EVEN_K else tl.load(at, mask=inside, other=0)
            nibble = (words >> (rows % 8 * 4).to(tl.int32)[:, None]) & 15
            zero = (nibble | 0x6400).to(tl.int16).to(tl.float16, bitcast=True)
        if GROUP == 0:
            even = _values(even, zero, None, BLOCK_N, GROUPS, EACH // 2)
            odd = _values(odd, zero, None, BLOCK_N, GROUPS, EACH // 2)
        else:
            at = scale_rows[:, None] + group[None, :]
            scale = tl.load(at) if EVEN_K else tl.load(at, mask=inside, other=0.0)
            even = _values(even, zero, scale, BLOCK_N, GROUPS, EACH // 2)
            odd = _values(odd, zero, scale, BLOCK_N, GROUPS, EACH // 2)
        even, odd = even.to(x.dtype), odd.to(x.dtype)
        # With mma.sync, wide tiles of tokens would spill in this order.
        if WGMMA or BLOCK_M <= 16:
            even = in_quarters(even, BLOCK_N, BLOCK_K // 2, 1, WGMMA)
            odd = in_quarters(odd, BLOCK_N, BLOCK_K // 2, 1, WGMMA)
            x = in_quarters(x, BLOCK_M, BLOCK_K // 2, 2, WGMMA)
        x_even, x_odd = tl.split(x.reshape(BLOCK_M, BLOCK_K // 2, 2))
        acc = tl.dot(even, tl.trans(x_even), acc, input_precision="ieee")
        acc = tl.dot(odd, tl.trans(x_odd), acc, input_precision="ieee")
    if GROUP == 0:
        acc *= tl.load(scale_rows).to(tl.float32)[:, None]
    return acc
