# SPDX-License-Identifier: Apache-2.0
"""Multiply a tile of FP8 weights (E4M3) by a tile of activations.

As for the other formats, out^T = w x^T. An E4M3 code shifted into FP16 is its value times 2^-8,
subnormals included; the power returns in fp32, after the dot. That is exact in FP16 and BF16, so
weights are not rounded. Scales are applied to fp32 results of a group of in-features.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config

# In-features that share a scale of the block format, and the widest tile.
GROUP = 128
_FP8_UNIT = tl.constexpr(256.0)


def launch_arguments(config: Config, k: int, scale: torch.Tensor, rows: int) -> dict[str, Any]:
    """Build the arguments that every kernel with `multiply_bytes` takes, for in-features k.

    scale: [.., N/R, G]; a row stride is passed as in `_nvfp4_tile.launch_arguments`. rows: N
    """
    groups = scale.shape[-1]
    alignment = {name: min(16, size & -size) for name, size in (("b", k), ("s", groups))}
    block_k = config.block_k if groups == 1 else min(config.block_k, GROUP)
    return {
        "bytes_a_row": k // alignment["b"],
        "scales_a_row": groups // alignment["s"],
        "BYTES_ALIGN": alignment["b"],
        "SCALES_ALIGN": alignment["s"],
        "GROUP": 0 if groups == 1 else GROUP,
        "ROWS_A_SCALE": rows // scale.shape[-2],
        "EVEN_K": k % block_k == 0,
        "WGMMA": False,
        "PLAIN": triton.knobs.runtime.interpret,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": block_k,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }


# Decode four E4M3 bytes to four FP16, each times 2^-8. prmt puts a byte into the high half of a
# 16-bit lane. Shifted right by one, its sign stands beside the exponent and is masked out.
_DECODE_TWO = """
prmt.b32 t, $2, 0, {selector};
shr.b32 u, t, 1;
and.b32 u, u, 0x3f803f80;
lop3.b32 {out}, t, 0x80008000, u, 0xea;
"""
DECODE_PTX = tl.constexpr(
    "{\n.reg .b32 t, u;"
    + _DECODE_TWO.format(selector="0x1404", out="$0")
    + _DECODE_TWO.format(selector="0x3424", out="$1")
    + "}"
)


@triton.jit
def decode_e4m3(codes, PLAIN: tl.constexpr):
    """Decode uint8 [..] to fp16 [..], each value times 2^-8; the code of NaN becomes 480.

    PLAIN: use plain expressions; Triton's interpreter has no inline assembly.
    """
    if PLAIN:
        byte = codes.to(tl.uint16)
        bits = ((byte & 0x80) << 8) | ((byte & 0x7F) << 7)
        return bits.to(tl.float16, bitcast=True)
    return tl.inline_asm_elementwise(
        DECODE_PTX, "=&r,=&r,r", [codes], dtype=tl.float16, is_pure=True, pack=4
    )


@triton.jit
def multiply_bytes(
    x_rows,
    x_mask,
    packed_ptr,
    scale_ptr,
    rows,
    packed_stride,
    scale_stride,
    GROUP: tl.constexpr,
    ROWS_A_SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Compute fp32 [BLOCK_N, BLOCK_M]: w x^T over all of K.

    x_rows: pointers [BLOCK_M] to fp16, bf16 or fp32 rows; x_mask: [BLOCK_M], rows to read
    rows: int64 [BLOCK_N], rows of the weight, all of which are read
    packed_stride, scale_stride: in-features and scales in a row
    GROUP: in-features that share a scale, a multiple of BLOCK_K; 0 for one scale for all of them
    ROWS_A_SCALE: rows that share a scale
    EVEN_K: K consists of whole tiles of BLOCK_K
    """
    element = tl.arange(0, BLOCK_K)
    packed_rows = packed_ptr + rows * packed_stride
    scale_rows = scale_ptr + rows // ROWS_A_SCALE * scale_stride
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for k in range(0, packed_stride, BLOCK_K):
        packed_at = packed_rows[:, None] + (k + element)[None, :]
        x_at = x_rows[:, None] + (k + element)[None, :]
        if EVEN_K:
            codes = tl.load(packed_at)
            x = tl.load(x_at, mask=x_mask[:, None], other=0.0)
        else:
            inside = (k + element < packed_stride)[None, :]
            codes = tl.load(packed_at, mask=inside, other=0)
            x = tl.load(x_at, mask=x_mask[:, None] & inside, other=0.0)
        w = decode_e4m3(codes, PLAIN).to(x.dtype)
        if GROUP == 0:
            acc = tl.dot(w, tl.trans(x), acc, input_precision="ieee")
        else:
            part = tl.dot(w, tl.trans(x), input_precision="ieee")
            acc += part * tl.load(scale_rows + k // GROUP).to(tl.float32)[:, None]
    if GROUP == 0:
        acc *= tl.load(scale_rows).to(tl.float32)[:, None]
    return acc * _FP8_UNIT
