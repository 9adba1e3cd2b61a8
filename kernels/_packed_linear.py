# SPDX-License-Identifier: Apache-2.0
"""Multiply activations by packed weights: the kernel that INT4 and FP8 linears share.

The launch configurations are in the tables of NVFP4 (`nvfp4_dispatch`), as op "packed". K is never
split over programs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._nvfp4_tile import gate_and_up, gated, weight_rows
from sglang_gemma4_ext.kernels._packed_tile import Format, Weight, launch_arguments, multiply
from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.nvfp4_checks import check_activation, check_activations
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config, choose


# One code for every number of tokens.
@triton.jit(do_not_specialize=["M"])
def _packed_linear_kernel(
    x_ptr,
    packed_ptr,
    scale_ptr,
    zero_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    x_stride,
    bytes_a_row,
    scales_a_row,
    FORMAT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BYTES_ALIGN: tl.constexpr,
    SCALES_ALIGN: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS_A_SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    WGMMA: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Compute out [M, N]; with an ACTIVATION, N is half the rows of the weight."""
    GATED: tl.constexpr = ACTIVATION is not None
    COLUMNS: tl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
    # Neighbouring programs share a weight tile, so a weight is read from memory once.
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile = tl.program_id(0)
    first_n = (tile // tiles_m) * COLUMNS
    token = (tile % tiles_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = weight_rows(first_n, N, BLOCK_N, GATED)
    acc = multiply(
        x_ptr + token.to(tl.int64) * x_stride,
        token < M,
        packed_ptr,
        scale_ptr,
        zero_ptr,
        rows.to(tl.int64),
        bytes_a_row * BYTES_ALIGN,
        scales_a_row * SCALES_ALIGN,
        FORMAT,
        GROUP,
        ROWS_A_SCALE,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        EVEN_K,
        WGMMA,
        PLAIN,
    )
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + rows).to(tl.float32)[:, None]
    if GATED:
        gate, up = gate_and_up(acc, BLOCK_M, BLOCK_N)
        acc = gated(gate, up, ACTIVATION)
    column = first_n + tl.arange(0, COLUMNS)
    at = token[None, :].to(tl.int64) * N + column[:, None]
    inside = (token < M)[None, :] & (column < N)[:, None]
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=inside)


def run_linear(
    fmt: Format,
    x: torch.Tensor,
    weight: Weight,
    k: int,
    bias: torch.Tensor | None,
    activation: Activation | None,
    config: Config | None,
) -> torch.Tensor:
    """Check x, bias and activation, and launch. weight: checked already, of in-features k.

    Returns [..., N], or [..., N/2] with an activation. Raises ValueError.
    """
    rows = weight[0].shape[0]
    tokens = check_activations(x, k)
    if activation is not None:
        check_activation(activation)
        require(rows % 2 == 0, "gate and up have the same rows, packed has %d", rows)
    if bias is not None:
        fits = bias.shape == (rows,) and bias.dtype == x.dtype and bias.is_contiguous()
        require(fits, "bias must be %s [%d], got %s %s", x.dtype, rows, bias.dtype, bias.shape)
    columns = rows if activation is None else rows // 2
    out = torch.empty((*x.shape[:-1], columns), dtype=x.dtype, device=x.device)
    count = tokens.shape[0]
    if count == 0:
        return out
    config = config or choose("packed", x.device, count, rows, k)
    tile_columns = config.block_n if activation is None else config.block_n // 2
    tiles = triton.cdiv(count, config.block_m) * triton.cdiv(columns, tile_columns)
    _packed_linear_kernel[(tiles,)](
        tokens,
        *weight,
        bias,
        out,
        count,
        columns,
        tokens.stride(0),
        ACTIVATION=activation,
        **launch_arguments(fmt, config, k, weight),
    )
    return out
