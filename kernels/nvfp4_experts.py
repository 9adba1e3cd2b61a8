# SPDX-License-Identifier: Apache-2.0
"""Run NVFP4 routed experts at decode size, in two launches for any number of experts.

The first multiplies each (token, slot) by its expert's gate and up and applies the activation. The
second multiplies each slot by its down projection and its routing weight. Its last program of a
token's tile adds the slots in their order, in fp32 (`_arrivals`). Slots are not sorted; the grouped
kernels sort them, for more tokens.
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
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.nvfp4_checks import check_experts
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config, choose


@triton.jit
def _experts_up_kernel(
    x_ptr,
    topk_ids_ptr,
    packed_ptr,
    block_scale_ptr,
    row_scale_ptr,
    out_ptr,
    top_k,
    columns,
    x_stride,
    bytes_a_row,
    scales_a_row,
    ACTIVATION: tl.constexpr,
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
    """Compute out [T * k, columns] = act(gate) * up of each slot that has an expert."""
    packed_stride = bytes_a_row * BYTES_ALIGN
    scale_stride = scales_a_row * SCALES_ALIGN
    slot = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * (BLOCK_N // 2)
    column = first + tl.arange(0, BLOCK_N // 2)
    expert = tl.load(topk_ids_ptr + slot).to(tl.int64)
    if expert < 0:
        return
    rows = expert * (2 * columns) + weight_rows(first, columns, BLOCK_N, True)
    # The token is the first column of the narrowest tile that the tensor core has.
    lane = tl.arange(0, BLOCK_M)
    acc = multiply(
        x_ptr + (slot // top_k) * x_stride + tl.zeros_like(lane),
        lane == 0,
        packed_ptr + rows * packed_stride,
        block_scale_ptr + rows * scale_stride,
        0,
        packed_stride,
        scale_stride,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        EVEN_K,
        WGMMA,
        PLAIN,
        BF16_FMA,
    )
    acc *= (tl.load(row_scale_ptr + rows) * WEIGHT_SCALE)[:, None]
    gate, up = gate_and_up(acc, BLOCK_M, BLOCK_N)
    y = tl.sum(gated(gate, up, ACTIVATION), axis=1)
    out_at = out_ptr + slot * columns + column
    tl.store(out_at, y.to(out_ptr.dtype.element_ty), mask=column < columns)


@triton.jit
def _experts_down_kernel(
    h_ptr,
    topk_ids_ptr,
    topk_weights_ptr,
    packed_ptr,
    block_scale_ptr,
    row_scale_ptr,
    out_ptr,
    parts_ptr,
    arrivals_ptr,
    N,
    bytes_a_row,
    scales_a_row,
    TOP_K: tl.constexpr,
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
    """Compute out [T, N]: the sum of weight * w2 h over each slot that has an expert, h [T * k, K].

    parts_ptr: fp32 [T, tiles, k, BLOCK_N]; arrivals_ptr: int32 [T, tiles], zeros
    """
    packed_stride = bytes_a_row * BYTES_ALIGN
    scale_stride = scales_a_row * SCALES_ALIGN
    slot = tl.program_id(0).to(tl.int64)
    token = slot // TOP_K
    first = tl.program_id(1) * BLOCK_N
    expert = tl.load(topk_ids_ptr + slot).to(tl.int64)
    # A slot without an expert multiplies nothing, and its part is zero.
    rows = tl.maximum(expert, 0) * N + weight_rows(first, N, BLOCK_N, False)
    lane = tl.arange(0, BLOCK_M)
    acc = multiply(
        h_ptr + slot * (2 * packed_stride) + tl.zeros_like(lane),
        lane == 0,
        packed_ptr + rows * packed_stride,
        block_scale_ptr + rows * scale_stride,
        0,
        tl.where(expert < 0, 0, packed_stride),
        scale_stride,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        EVEN_K,
        WGMMA,
        PLAIN,
        BF16_FMA,
    )
    weight = tl.load(topk_weights_ptr + slot).to(tl.float32) * WEIGHT_SCALE
    y = tl.sum(acc, axis=1) * tl.load(row_scale_ptr + rows) * weight
    tile = token * tl.num_programs(1) + tl.program_id(1)
    place = tl.arange(0, BLOCK_N)
    parts = parts_ptr + tile * (TOP_K * BLOCK_N) + place
    tl.store(parts + (slot % TOP_K) * BLOCK_N, tl.where(expert < 0, 0.0, y))
    if not arrived_last(arrivals_ptr + tile, TOP_K):
        return
    total = tl.zeros([BLOCK_N], tl.float32)
    # Unrolled, so that all parts are on their way at once.
    for i in tl.static_range(TOP_K):
        total += tl.load(parts + i * BLOCK_N, cache_modifier=".cg")
    out_at = out_ptr + token * N + first + place
    tl.store(out_at, total.to(out_ptr.dtype.element_ty), mask=first + place < N)


def nvfp4_experts(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    w13_packed: torch.Tensor,
    w13_block_scale: torch.Tensor,
    w13_row_scale: torch.Tensor,
    w2_packed: torch.Tensor,
    w2_block_scale: torch.Tensor,
    w2_row_scale: torch.Tensor,
    activation: Activation,
    *,
    up_config: Config | None = None,
    down_config: Config | None = None,
) -> torch.Tensor:
    """Compute for each token the sum over its experts of weight * w2(act(gate(x)) * up(x)).

    x: bf16 or fp16 [T, H], the last dimension contiguous; fp32 in the interpreter only
    topk_ids: int32 or int64 [T, k], contiguous, 0 to E - 1; a negative id is skipped
    topk_weights: floating [T, k], contiguous
    w13_packed: uint8 [E, 2I, H/2], the gate's I rows before the up projection's
    w13_block_scale: float8_e4m3fn [E, 2I, H/16], without NaN
    w13_row_scale: float32 [E, 2I]
    w2_packed: uint8 [E, H, I/2]
    w2_block_scale: float8_e4m3fn [E, H, I/16], without NaN
    w2_row_scale: float32 [E, H]
    Returns [T, H] in x's dtype. Sums are fp32; the activation's result is rounded to x's dtype.
    Raises ValueError on a shape, dtype, stride or activation that does not fit.
    """
    w13 = (w13_packed, w13_block_scale, w13_row_scale)
    w2 = (w2_packed, w2_block_scale, w2_row_scale)
    tokens, inner = check_experts(x, topk_ids, topk_weights, w13, w2, activation)
    count, top_k = topk_ids.shape
    hidden = tokens.shape[1]
    out = torch.empty((count, hidden), dtype=x.dtype, device=x.device)
    if count == 0:
        return out
    up = up_config or choose("experts_up", x.device, count, 2 * inner, hidden)
    down = down_config or choose("experts_down", x.device, count, hidden, inner)
    h = torch.empty((count * top_k, inner), dtype=x.dtype, device=x.device)
    _experts_up_kernel[(count * top_k, triton.cdiv(inner, up.block_n // 2))](
        tokens,
        topk_ids,
        w13_packed,
        w13_block_scale.view(torch.uint8),
        w13_row_scale,
        h,
        top_k,
        inner,
        tokens.stride(0),
        ACTIVATION=activation,
        **launch_arguments(up, hidden, x.device),
    )
    tiles = triton.cdiv(hidden, down.block_n)
    shape = (count, tiles, top_k, down.block_n)
    parts = torch.empty(shape, dtype=torch.float32, device=x.device)
    _experts_down_kernel[(count * top_k, tiles)](
        h,
        topk_ids,
        topk_weights,
        w2_packed,
        w2_block_scale.view(torch.uint8),
        w2_row_scale,
        out,
        parts,
        counters(x.device, count * tiles),
        hidden,
        TOP_K=top_k,
        **launch_arguments(down, inner, x.device),
    )
    return out
