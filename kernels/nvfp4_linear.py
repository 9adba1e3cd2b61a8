# SPDX-License-Identifier: Apache-2.0
"""Multiply activations by packed NVFP4 weights, for every number of tokens; twin of `nvfp4_ref`.

One kernel serves from M = 1 to prefill; the tile changes with M (`nvfp4_dispatch`). Where N is
small, K is split over programs, and a second launch adds their fp32 parts in a fixed order. Results
are therefore deterministic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

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

FINISH_COLUMNS = 512
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
    """Compute out [M, N]; with an ACTIVATION, N is half the weight's rows; with SPLIT, raw parts.

    bytes_a_row, scales_a_row: in units of their ALIGN, see `launch_arguments`
    tiles_a_part: with SPLIT, tiles of K that a program adds
    """
    GATED: tl.constexpr = ACTIVATION is not None
    COLUMNS: tl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
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
    if not SPLIT:
        acc *= (tl.load(row_scale_ptr + rows) * WEIGHT_SCALE)[:, None]
        if HAS_BIAS:
            acc += tl.load(bias_ptr + rows).to(tl.float32)[:, None]
    else:
        # Raw parts [splits, M, N], where N has both halves of gate and up: see `_finish_kernel`.
        out_ptr += tl.program_id(1).to(tl.int64) * M * N
    if GATED:
        gate, up = gate_and_up(acc, BLOCK_M, BLOCK_N)
        acc = gated(gate, up, ACTIVATION)
    column = first_n + tl.arange(0, COLUMNS)
    at = token[None, :].to(tl.int64) * N + column[:, None]
    inside = (token < M)[None, :] & (column < N)[:, None]
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M", "splits"])
def _finish_kernel(
    parts_ptr,
    row_scale_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    splits,
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add parts, fp32 [splits, M, rows]; apply row scales, bias, activation; out is [M, N]."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < N
    rows = 2 * N if ACTIVATION is not None else N
    y = _scaled_sum(
        parts_ptr, row_scale_ptr, bias_ptr, M, rows, splits, token, column, inside, HAS_BIAS
    )
    if ACTIVATION is not None:
        row = N + column
        up = _scaled_sum(
            parts_ptr, row_scale_ptr, bias_ptr, M, rows, splits, token, row, inside, HAS_BIAS
        )
        y = gated(y, up, ACTIVATION)
    tl.store(out_ptr + token * N + column, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _scaled_sum(
    parts_ptr,
    row_scale_ptr,
    bias_ptr,
    M,
    rows,
    splits,
    token,
    row,
    inside,
    HAS_BIAS: tl.constexpr,
):
    """Add and scale the parts of a token at columns `row`; fp32. token: int64."""
    total = tl.zeros(row.shape, tl.float32)
    # Unrolled, so that all parts are on their way at once.
    for split in tl.static_range(_MAX_SPLITS):
        part = parts_ptr + (split * M + token) * rows + row
        total += tl.load(part, mask=inside & (split < splits), other=0.0)
    total *= tl.load(row_scale_ptr + row, mask=inside, other=0.0) * WEIGHT_SCALE
    if HAS_BIAS:
        total += tl.load(bias_ptr + row, mask=inside, other=0.0).to(tl.float32)
    return total


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
    weight = (packed, block_scale.view(torch.uint8), row_scale)
    if config.splits == 1:
        _multiply(tokens, weight, bias, out, columns, activation, config)
        return out
    shape = (config.splits, tokens.shape[0], rows)
    parts = torch.empty(shape, dtype=torch.float32, device=x.device)
    _multiply(tokens, weight, None, parts, rows, None, config)
    _finish_kernel[(tokens.shape[0], triton.cdiv(columns, FINISH_COLUMNS))](
        parts,
        row_scale,
        bias,
        out,
        tokens.shape[0],
        columns,
        config.splits,
        ACTIVATION=activation,
        HAS_BIAS=bias is not None,
        COLUMNS=FINISH_COLUMNS,
    )
    return out


def _multiply(
    tokens: torch.Tensor,
    weight: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    bias: torch.Tensor | None,
    out: torch.Tensor,
    columns: int,
    activation: Activation | None,
    config: Config,
) -> None:
    """Launch the matmul. out: [T, columns], or raw fp32 parts [splits, T, columns]."""
    count, k = tokens.shape
    tile_columns = config.block_n if activation is None else config.block_n // 2
    tiles = triton.cdiv(count, config.block_m) * triton.cdiv(columns, tile_columns)
    _nvfp4_linear_kernel[(tiles, config.splits)](
        tokens,
        *weight,
        bias,
        out,
        count,
        columns,
        tokens.stride(0),
        tiles_a_part=triton.cdiv(triton.cdiv(k, config.block_k), config.splits),
        ACTIVATION=activation,
        HAS_BIAS=bias is not None,
        SPLIT=config.splits > 1,
        **launch_arguments(config, k, tokens.device),
    )


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
