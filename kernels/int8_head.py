# SPDX-License-Identifier: Apache-2.0
"""Multiply hidden states by an INT8 output head, decoded in registers; twin of `int8_head_ref`.

Codes are exact in BF16, FP16 and fp32, and a row's scale is applied to the fp32 sum. So the result
differs from fp32 arithmetic on the same codes by the order of additions alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._require import require


@dataclass(frozen=True)
class HeadTile:
    """Describe a launch: block_m tokens by block_n rows of the vocabulary."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


# For up to so many tokens. Weights stream once where block_m covers all tokens.
_TILES = (
    (16, HeadTile(16, 64, 128, 4, 4)),
    (32, HeadTile(32, 64, 128, 4, 4)),
    (64, HeadTile(64, 64, 64, 4, 4)),
    (None, HeadTile(128, 64, 64, 8, 3)),
)


# For activations in fp32, which take twice the shared memory.
_WIDE = HeadTile(16, 32, 64, 4, 2)


def choose_tile(tokens: int, dtype: torch.dtype) -> HeadTile:
    """Return the launch configuration for a number of tokens in a dtype."""
    if dtype == torch.float32:
        return _WIDE
    return next(tile for most, tile in _TILES if most is None or tokens <= most)


# One code for every number of tokens.
@triton.jit(do_not_specialize=["M"])
def _int8_head_kernel(
    x_ptr,
    codes_ptr,
    scale_ptr,
    out_ptr,
    M,
    N,
    x_stride,
    units_a_row,
    UNIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """Compute out [M, N] = x [M, K] (codes [N, K] * scale [N])^T; K = units_a_row * UNIT."""
    K = units_a_row * UNIT
    # Neighbouring programs share a tile of the head, so it is read from memory once.
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile = tl.program_id(0)
    row = (tile // tiles_m) * BLOCK_N + tl.arange(0, BLOCK_N)
    token = (tile % tiles_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    element = tl.arange(0, BLOCK_K)
    # Rows beyond the last read the last one; they are not stored.
    weight_at = codes_ptr + tl.minimum(row, N - 1).to(tl.int64)[:, None] * K + element[None, :]
    x_at = x_ptr + token.to(tl.int64)[:, None] * x_stride + element[None, :]
    here = (token < M)[:, None]
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for k in range(0, K, BLOCK_K):
        if EVEN_K:
            codes = tl.load(weight_at + k)
            x = tl.load(x_at + k, mask=here, other=0.0)
        else:
            inside = (k + element < K)[None, :]
            codes = tl.load(weight_at + k, mask=inside, other=0)
            x = tl.load(x_at + k, mask=here & inside, other=0.0)
        # By way of fp32, as GPUs convert, and as Triton's interpreter can.
        w = codes.to(tl.float32).to(x.dtype)
        acc = tl.dot(w, tl.trans(x), acc, input_precision="ieee")
    acc *= tl.load(scale_ptr + tl.minimum(row, N - 1))[:, None]
    at = token.to(tl.int64)[None, :] * N + row[:, None]
    stored = (token < M)[None, :] & (row < N)[:, None]
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=stored)


def int8_head(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    out_dtype: torch.dtype | None = None,
    *,
    tile: HeadTile | None = None,
) -> torch.Tensor:
    """Compute x w^T, w = codes * scale.

    x: bf16, fp16 or fp32 [M, K], rows of one stride, the last dimension contiguous
    codes: int8 [N, K], contiguous; scale: fp32 [N], contiguous
    out_dtype: None for x's
    Returns [M, N]. Products accumulate in fp32; the result is rounded once. Raises ValueError on
    a shape, dtype or stride that does not fit.
    """
    check(x, codes, scale)
    m, k = x.shape
    out = torch.empty(m, codes.shape[0], dtype=out_dtype or x.dtype, device=x.device)
    if m == 0:
        return out
    tile = tile or choose_tile(m, x.dtype)
    unit = min(16, k & -k)
    grid = (triton.cdiv(codes.shape[0], tile.block_n) * triton.cdiv(m, tile.block_m),)
    _int8_head_kernel[grid](
        x,
        codes,
        scale,
        out,
        m,
        codes.shape[0],
        x.stride(0),
        k // unit,
        UNIT=unit,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        EVEN_K=k % tile.block_k == 0,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out


def check(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> None:
    """Raise ValueError unless x, codes and scale fit together."""
    floats = (torch.bfloat16, torch.float16, torch.float32)
    require(x.dim() == 2 and x.dtype in floats, "x must be floats [M, K], got %s", x.dtype)
    require(x.stride(1) == 1, "x must have contiguous rows, its strides are %s", x.stride())
    fits = codes.dim() == 2 and codes.dtype == torch.int8 and codes.shape[1] == x.shape[1]
    require(fits, "codes must be int8 [N, %d], got %s %s", x.shape[1], codes.dtype, codes.shape)
    require(codes.is_contiguous() and scale.is_contiguous(), "codes and scale must be contiguous")
    fits = scale.dtype == torch.float32 and scale.shape == codes.shape[:1]
    require(fits, "scale must be float32 [N], got %s %s", scale.dtype, scale.shape)
