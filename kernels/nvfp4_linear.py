# SPDX-License-Identifier: Apache-2.0
"""Multiply activations by packed NVFP4 weights, for every number of tokens; twin of `nvfp4_ref`.

One kernel serves from M = 1 to prefill; the tile changes with M (`nvfp4_dispatch`). Where N is
small, K is split over programs. The last one of a tile adds their fp32 parts in a fixed order
(`_arrivals`). Results are therefore deterministic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._arrivals import arrived_last, counters
from sglang_gemma4_ext.kernels._nvfp4_tile import (
    WEIGHT_SCALE,
    gate_and_up,
    gated,
    launch_arguments,
    multiply,
    weight_rows,
)
from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.nvfp4_checks import (
    check_activation,
    check_activations,
    check_weight,
)
from sglang_gemma4_ext.kernels.nvfp4_dispatch import MAX_SPLITS, Config, choose

_MAX_SPLITS = tl.constexpr(MAX_SPLITS)


# M changes between steps, and the parts of K with the GPU. Triton would compile once more for 1 and
# for multiples of 16.
@triton.jit(do_not_specialize=["M", "tiles_a_part"])
def _nvfp4_linear_kernel(
    x_ptr,
    packed_ptr,
    block_scale_ptr,
    row_scale_ptr,
    bias_ptr,
    out_ptr,
    parts_ptr,
    arrivals_ptr,
    M,
    N,
    x_stride,
    bytes_a_row,
    scales_a_row,
    tiles_a_part,
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SPLIT: tl.constexpr,
    BYTES_ALIGN: tl.constexpr,
    SCALES_ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    WGMMA: tl.constexpr,
    PLAIN: tl.constexpr,
    BF16_FMA: tl.constexpr,
):
    """Compute out [M, N]; with an ACTIVATION, N is half the weight's rows.

    parts_ptr: with SPLIT, fp32 [tiles, splits, BLOCK_M, BLOCK_N]; arrivals_ptr: int32 [tiles], 0
    bytes_a_row, scales_a_row: in units of their ALIGN, see `launch_arguments`
    tiles_a_part: with SPLIT, tiles of K that a program adds
    """
    GATED: tl.constexpr = ACTIVATION is not None
    COLUMNS: tl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
    SIZE: tl.constexpr = BLOCK_M * BLOCK_N
    packed_stride = bytes_a_row * BYTES_ALIGN
    scale_stride = scales_a_row * SCALES_ALIGN
    # Neighbouring programs share a weight tile, so a weight is read from memory once.
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile = tl.program_id(0)
    first_n = (tile // tiles_m) * COLUMNS
    token = (tile % tiles_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    start, stop, scale_stop = 0, packed_stride, scale_stride
    if SPLIT:
        start = tl.program_id(1) * tiles_a_part * (BLOCK_K // 2)
        after = (tl.program_id(1) + 1) * tiles_a_part
        stop = tl.minimum(after * (BLOCK_K // 2), packed_stride)
        scale_stop = tl.minimum(after * (BLOCK_K // 16), scale_stride)
    rows = weight_rows(first_n, N, BLOCK_N, GATED)
    wide = rows.to(tl.int64)
    acc = multiply(
        x_ptr + token.to(tl.int64) * x_stride,
        token < M,
        packed_ptr + wide * packed_stride,
        block_scale_ptr + wide * scale_stride,
        start,
        stop,
        scale_stop,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        EVEN_K,
        WGMMA,
        PLAIN,
        BF16_FMA,
    )
    column = first_n + tl.arange(0, COLUMNS)
    if SPLIT:
        splits = tl.num_programs(1)
        # Whole tiles, with strides that are constants: addresses then take few registers.
        lane, place = tl.arange(0, BLOCK_M)[None, :], tl.arange(0, BLOCK_N)[:, None]
        parts = parts_ptr + tile.to(tl.int64) * splits * SIZE + (lane * BLOCK_N + place)
        real = (token < M)[None, :] & (place >= 0)
        tl.store(parts + tl.program_id(1) * SIZE, acc, mask=real)
        if not arrived_last(arrivals_ptr + tile, splits):
            return
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        if BLOCK_M <= 16:
            # Unrolled, so that all parts are on their way at once.
            for split in tl.static_range(_MAX_SPLITS):
                part = parts + split * SIZE
                there = real & (split < splits)
                acc += tl.load(part, mask=there, other=0.0, cache_modifier=".cg")
        else:
            for split in tl.range(0, splits, loop_unroll_factor=2):
                part = parts + split * SIZE
                acc += tl.load(part, mask=real, other=0.0, cache_modifier=".cg")
    acc *= (tl.load(row_scale_ptr + rows) * WEIGHT_SCALE)[:, None]
    if HAS_BIAS:
        acc += tl.load(bias_ptr + rows).to(tl.float32)[:, None]
    if GATED:
        gate, up = gate_and_up(acc, BLOCK_M, BLOCK_N)
        acc = gated(gate, up, ACTIVATION)
    at = token[None, :].to(tl.int64) * N + column[:, None]
    inside = (token < M)[None, :] & (column < N)[:, None]
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=inside)


def nvfp4_linear(
    x: torch.Tensor,
    packed: torch.Tensor,
    block_scale: torch.Tensor,
    row_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """Compute x w^T + bias, w = e2m1(packed) * block_scale * row_scale, decoded in registers.

    x: bf16 or fp16 [..., K], the last dimension contiguous, one stride for all rows; fp32 in the
        interpreter only
    packed: uint8 [N, K/2], two E2M1 per byte, low nibble first; contiguous, K a multiple of 16
    block_scale: float8_e4m3fn [N, K/16], contiguous, without NaN
    row_scale: float32 [N]; multiplies; each of several stacked linears has its own
    bias: [N] in x's dtype, or None
    activation: None, or the act of act(gate) * up, gate being the first N/2 rows and up the others
    config: None for the choice of `nvfp4_dispatch`; at most MAX_SPLITS splits
    Returns [..., N], or [..., N/2] with an activation, in x's dtype. Weights are exact, products
    accumulate in fp32, the result is rounded once.
    Raises ValueError on a shape, dtype or stride that does not fit.
    """
    rows, k = check_weight(packed, block_scale, row_scale, dim=2)
    tokens = check_activations(x, k)
    _check_epilogue(x, rows, bias, activation)
    columns = rows if activation is None else rows // 2
    out = torch.empty((*x.shape[:-1], columns), dtype=x.dtype, device=x.device)
    if tokens.shape[0] == 0:
        return out
    config = config or choose("linear", x.device, tokens.shape[0], rows, k)
    require(config.splits <= MAX_SPLITS, "%d splits, at most %d", config.splits, MAX_SPLITS)
    tile_columns = config.block_n if activation is None else config.block_n // 2
    tiles = triton.cdiv(tokens.shape[0], config.block_m) * triton.cdiv(columns, tile_columns)
    parts = arrivals = None
    if config.splits > 1:
        shape = (tiles, config.splits, config.block_m, config.block_n)
        parts = torch.empty(shape, dtype=torch.float32, device=x.device)
        arrivals = counters(x.device, tiles)
    _nvfp4_linear_kernel[(tiles, config.splits)](
        tokens,
        packed,
        block_scale.view(torch.uint8),
        row_scale,
        bias,
        out,
        parts,
        arrivals,
        tokens.shape[0],
        columns,
        tokens.stride(0),
        tiles_a_part=triton.cdiv(triton.cdiv(k, config.block_k), config.splits),
        ACTIVATION=activation,
        HAS_BIAS=bias is not None,
        SPLIT=config.splits > 1,
        **launch_arguments(config, k, tokens.device),
    )
    return out


def _check_epilogue(
    x: torch.Tensor, rows: int, bias: torch.Tensor | None, activation: str | None
) -> None:
    if activation is not None:
        check_activation(activation)
        require(rows % 2 == 0, "gate and up have the same rows, packed has %d", rows)
    if bias is not None:
        fits = bias.shape == (rows,) and bias.dtype == x.dtype
        require(fits, "bias must be %s [%d], got %s %s", x.dtype, rows, bias.dtype, bias.shape)
        require(bias.is_contiguous(), "bias must be contiguous")
