# SPDX-License-Identifier: Apache-2.0
"""Multiply a tile of NVFP4 weights by a tile of activations, for all NVFP4 kernels.

The operands are swapped, out^T = w x^T. Rows of N fill the tall side of the tensor core's tile, and
the few tokens of a decode step fill its narrow side. The even and the odd k of a byte are two dots,
with activations split the same way. Therefore codes are never interleaved into the order of K.

BF16 activations have a decoder of their own (`_bf16_decode`). For the others, decoding needs only
bit operations. Three magnitude bits of an E2M1 at bits 9 to 11 of an FP16 give
its value times 2^-14. The bits of an E4M3 at bits 7 to 13 give its value times 2^-8. The block
scale is multiplied by 2^14, so code times scale is exact in FP16: at most 6 significant bits, a
multiple of 2^-18, below 11. It stays exact in FP32. The fp32 row scale includes the
remaining factor, WEIGHT_SCALE.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._bf16_decode import decode_bf16, holds
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config

# Factor for the results of `multiply`: 2^14 of the codes * 2^8 of the scales / 2^14 multiplied in.
WEIGHT_SCALE = tl.constexpr(256.0)


def launch_arguments(config: Config, k: int, device: torch.device) -> dict[str, Any]:
    """Build the arguments that every kernel with `multiply` takes, for in-features k.

    A row stride is passed in units of the largest power of two, up to 16, that divides it. The
    unit is a constexpr: Triton then knows the alignment of each row and emits 16-byte loads.
    """
    alignment = {name: min(16, size & -size) for name, size in (("b", k // 2), ("s", k // 16))}
    interpreted = triton.knobs.runtime.interpret
    return {
        "bytes_a_row": k // 2 // alignment["b"],
        "scales_a_row": k // 16 // alignment["s"],
        "BYTES_ALIGN": alignment["b"],
        "SCALES_ALIGN": alignment["s"],
        "EVEN_K": k % config.block_k == 0,
        "WGMMA": config.wgmma,
        "PLAIN": interpreted,
        "BF16_FMA": not interpreted and holds(device),
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }


# Decode four bytes to 2 x 4 FP16, in order, two bytes at a time. prmt puts a byte into the high
# half of a 16-bit lane, where the odd k's sign is in place. ptxas merges each and, and, or.
_DECODE_TWO = """
prmt.b32 t, $4, 0, {selector};
and.b32 u, t, 0x80008000;
shr.b32 v, t, 3;
and.b32 v, v, 0x0e000e00;
or.b32 {odd}, u, v;
shl.b32 u, t, 4;
and.b32 u, u, 0x80008000;
shl.b32 v, t, 1;
and.b32 v, v, 0x0e000e00;
or.b32 {even}, u, v;
"""
DECODE_PTX = tl.constexpr(
    "{\n.reg .b32 t, u, v;"
    + _DECODE_TWO.format(selector="0x1404", even="$0", odd="$2")
    + _DECODE_TWO.format(selector="0x3424", even="$1", odd="$3")
    + "}"
)


@triton.jit
def decode(packed, PLAIN: tl.constexpr):
    """Decode uint8 [..] to fp16 [..] of the even k and of the odd k, each times 2^-14.

    PLAIN: use plain expressions; Triton's interpreter has no inline assembly.
    """
    if PLAIN:
        byte = packed.to(tl.uint16)
        even = ((byte & 0x08) << 12) | ((byte & 0x07) << 9)
        odd = ((byte & 0x80) << 8) | ((byte & 0x70) << 5)
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
def e4m3_as_fp16(e4m3):
    """Decode uint8 [..], bytes of E4M3 without NaN, to fp16 [..], times 2^-8."""
    byte = e4m3.to(tl.uint16)
    bits = ((byte & 0x80) << 8) | ((byte & 0x7F) << 7)
    return bits.to(tl.float16, bitcast=True)


@triton.jit
def gated(gate, up, ACTIVATION: tl.constexpr):
    """Compute act(gate) * up in fp32. The tanh gelu is g (1 + tanh u) / 2 = g sigmoid(2u)."""
    if ACTIVATION == "gelu_tanh":
        inner = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    else:
        tl.static_assert(ACTIVATION == "silu")
        inner = gate
    return gate * tl.sigmoid(inner) * up


@triton.jit
def weight_rows(first, count, BLOCK_N: tl.constexpr, GATED: tl.constexpr):
    """Return int32 [BLOCK_N]: weight rows of the tile at output column `first`, clamped.

    count: output columns
    GATED: gate rows alternate with their up rows, which are `count` rows further on. One tile then
        holds both for BLOCK_N / 2 columns.
    """
    offset = tl.arange(0, BLOCK_N)
    if GATED:
        return (offset % 2) * count + tl.minimum(first + offset // 2, count - 1)
    return tl.minimum(first + offset, count - 1)


@triton.jit
def in_quarters(
    tile, ROWS: tl.constexpr, BYTES: tl.constexpr, EACH: tl.constexpr, WGMMA: tl.constexpr
):
    """Reorder [ROWS, BYTES * EACH]: a few bytes of each quarter of a row in turn.

    Four threads share a row of the left operand. Of every 8 columns, wgmma reads 2 in a thread. Of
    every 16, mma.sync reads 4 in Triton's layout for 8-bit weights. In memory order a thread's
    bytes lie scattered in such pieces. A sum over K may have any order. In this order a thread's
    bytes are a quarter of the row, copied by 16.
    """
    PIECE: tl.constexpr = 2 if WGMMA else 4
    split = tile.reshape(ROWS, 4, BYTES // (4 * PIECE), PIECE * EACH)
    return split.permute(0, 2, 1, 3).reshape(ROWS, BYTES * EACH)


@triton.jit
def multiply(
    x_rows,
    x_mask,
    packed_rows,
    scale_rows,
    start,
    stop,
    scale_stop,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    WGMMA: tl.constexpr,
    PLAIN: tl.constexpr,
    BF16_FMA: tl.constexpr,
):
    """Compute fp32 [BLOCK_N, BLOCK_M]: w x^T / WEIGHT_SCALE over a range of K, without row scales.

    x_rows: pointers [BLOCK_M] to fp16, bf16 or fp32 rows; x_mask: [BLOCK_M], rows to read
    packed_rows, scale_rows: pointers [BLOCK_N] to uint8 rows, all of which are read
    start, stop: range in packed bytes, start a multiple of BLOCK_K / 2
    scale_stop: stop / 8 as Triton can see to be a multiple of 4: only then are scales copied ahead,
        by cp.async, which copies 4 bytes or more
    EVEN_K: the range consists of whole tiles of BLOCK_K
    WGMMA: Triton uses wgmma for the tile, see `in_quarters`
    BF16_FMA: bf16 weights are decoded by `_bf16_decode`
    """
    byte = tl.arange(0, BLOCK_K // 2)
    block = tl.arange(0, BLOCK_K // 16)
    element = tl.arange(0, BLOCK_K)
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for k in range(start, stop, BLOCK_K // 2):
        packed_at = packed_rows[:, None] + (k + byte)[None, :]
        scale_at = scale_rows[:, None] + (k // 8 + block)[None, :]
        x_at = x_rows[:, None] + (2 * k + element)[None, :]
        if EVEN_K:
            packed = tl.load(packed_at)
            scale = tl.load(scale_at)
            x = tl.load(x_at, mask=x_mask[:, None], other=0.0)
        else:
            packed = tl.load(packed_at, mask=(k + byte < stop)[None, :], other=0)
            scale = tl.load(scale_at, mask=(k // 8 + block < scale_stop)[None, :], other=0)
            x_inside = x_mask[:, None] & (2 * k + element < 2 * stop)[None, :]
            x = tl.load(x_at, mask=x_inside, other=0.0)
        if BF16_FMA and x.dtype == tl.bfloat16:
            even, odd = decode_bf16(packed, scale, BLOCK_N, BLOCK_K // 16)
        else:
            even, odd = decode(packed, PLAIN)
            scale = (e4m3_as_fp16(scale) * 16384.0)[:, :, None]
            even = (even.reshape(BLOCK_N, BLOCK_K // 16, 8) * scale).reshape(BLOCK_N, BLOCK_K // 2)
            odd = (odd.reshape(BLOCK_N, BLOCK_K // 16, 8) * scale).reshape(BLOCK_N, BLOCK_K // 2)
        even = in_quarters(even, BLOCK_N, BLOCK_K // 2, 1, WGMMA)
        odd = in_quarters(odd, BLOCK_N, BLOCK_K // 2, 1, WGMMA)
        x = in_quarters(x, BLOCK_M, BLOCK_K // 2, 2, WGMMA)
        x_even, x_odd = tl.split(x.reshape(BLOCK_M, BLOCK_K // 2, 2))
        acc = tl.dot(even.to(x.dtype), tl.trans(x_even), acc, input_precision="ieee")
        acc = tl.dot(odd.to(x.dtype), tl.trans(x_odd), acc, input_precision="ieee")
    return acc


@triton.jit
def gate_and_up(acc, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Split alternating rows [BLOCK_N, BLOCK_M] into gate and up, [BLOCK_N / 2, BLOCK_M] each."""
    return tl.split(acc.reshape(BLOCK_N // 2, 2, BLOCK_M).permute(0, 2, 1))
