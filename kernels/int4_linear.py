# SPDX-License-Identifier: Apache-2.0
"""Multiply activations by packed INT4 weights, for every number of tokens; twin of `int4_ref`.

The launch configurations are those of NVFP4, whose weights have the same size (`nvfp4_dispatch`).
K is never split over programs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._int4_tile import launch_arguments, multiply_int4
from sglang_gemma4_ext.kernels._nvfp4_tile import gate_and_up, gated, weight_rows
from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.int4_checks import check_weight
from sglang_gemma4_ext.kernels.nvfp4_checks import check_activation, check_activations
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config, choose


# One code for every number of tokens.
@triton.jit(do_not_specialize=["M"])
def _int4_linear_kernel(
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
    ACTIVATION: tl.constexpr,
    BYTES_ALIGN: tl.constexpr,
    SCALES_ALIGN: tl.constexpr,
    GROUP: tl.constexpr,
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
    acc = multiply_int4(
        x_ptr + token.to(tl.int64) * x_stride,
        token < M,
        packed_ptr,
        scale_ptr,
        zero_ptr,
        rows.to(tl.int64),
        bytes_a_row * BYTES_ALIGN,
        scales_a_row * SCALES_ALIGN,
        GROUP,
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


def int4_linear(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """Compute x w^T + bias, w = (code - zero) * scale, decoded in registers.

    x: bf16 or fp16 [..., K], the last dimension contiguous, one stride for all rows; fp32 in the
        interpreter only
    packed: uint8 [N, K/2], two codes a byte, low nibble first; contiguous, K a multiple of 32
    scale: bf16, fp16 or fp32 [N, G], contiguous; a group K/G is a power of two from 32 on, or K
    zero: int32 [N/8, G], eight rows a word, contiguous; None for a zero of 8
    bias: [N] in x's dtype, or None
    activation: None, or the act of act(gate) * up, gate being the first N/2 rows and up the others
    config: None for the choice of `nvfp4_dispatch`; its splits are not used
    Returns [..., N], or [..., N/2] with an activation, in x's dtype. Weights are rounded once to
    that dtype, exact with a scale per row. Products accumulate in fp32, the result is rounded once.
    Raises ValueError on a shape, dtype or stride that does not fit.
    """
    rows, k = check_weight(packed, scale, zero, dim=2)
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
    config = config or choose("linear", x.device, count, rows, k)
    tile_columns = config.block_n if activation is None else config.block_n // 2
    _int4_linear_kernel[(triton.cdiv(count, config.block_m) * triton.cdiv(columns, tile_columns),)](
        tokens,
        packed,
        scale,
        zero,
        bias,
        out,
        count,
        columns,
        tokens.stride(0),
        ACTIVATION=activation,
        **launch_arguments(config, k, scale),
    )
    return out
