# SPDX-License-Identifier: Apache-2.0
"""Run NVFP4 routed experts over many tokens: a grouped GEMM in SGLang's sorted-token layout.

Slots (token * k + i) are sorted by expert, and each expert's slots are padded to whole blocks.
Therefore a program multiplies the weights of one expert. There are three launches: gate and up with
the activation, down with the routing weight, and the sum of a token's slots in their order.
"""

from __future__ import annotations

from typing import NamedTuple

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
from sglang_gemma4_ext.kernels._slot_sum import sum_slots
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.nvfp4_checks import check_experts
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config


class SortedSlots(NamedTuple):
    """Hold the result of SGLang's moe_align_block_size for a block size.

    slots: int32 [at least the padded count], slots by expert; values from T * k on are padding
    experts: int32 [blocks], the expert of each block; -1 for an expert of another rank
    padded: int32 [1], the number of valid entries in `slots`
    """

    slots: torch.Tensor
    experts: torch.Tensor
    padded: torch.Tensor


def sort_slots(topk_ids: torch.Tensor, block: int, experts: int) -> SortedSlots:
    """Sort slots in plain PyTorch, without a host sync; slots of a negative id are left out.

    topk_ids: integer [T, k], below `experts`
    """
    ids = topk_ids.flatten().long()
    ids = torch.where(ids < 0, experts, ids)
    # bincount would wait for the device.
    counts = ids.new_zeros(experts + 1).scatter_add_(0, ids, torch.ones_like(ids))[:experts]
    padded = (counts + block - 1) // block * block
    ends = padded.cumsum(0)
    order = ids.argsort(stable=True)
    before = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    sorted_ids = ids[order]
    rank = torch.arange(ids.numel(), device=ids.device) - before[sorted_ids]
    size = ids.numel() + min(experts, ids.numel()) * (block - 1)
    size = (size + block - 1) // block * block
    starts = torch.cat((ends - padded, ends.new_full((1,), size)))
    # Slots without an expert go to one entry behind the end, which is dropped.
    at = (starts[sorted_ids] + rank).clamp(max=size)
    slots = torch.full((size + 1,), ids.numel(), dtype=torch.int32, device=ids.device)
    slots[at] = order.to(torch.int32)
    first = torch.arange(size // block, device=ids.device) * block
    owners = torch.searchsorted(ends, first, right=True).clamp(max=experts - 1)
    return SortedSlots(slots[:size], owners.to(torch.int32), ends[-1:].to(torch.int32))


# One code for every number of tokens.
@triton.jit(do_not_specialize=["count"])
def _grouped_kernel(
    x_ptr,
    slots_ptr,
    experts_ptr,
    padded_ptr,
    weights_ptr,
    packed_ptr,
    block_scale_ptr,
    row_scale_ptr,
    out_ptr,
    count,
    N,
    x_stride,
    bytes_a_row,
    scales_a_row,
    SLOTS_A_ROW: tl.constexpr,
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
    """Compute out [T * k, N]: act(gate) * up with an ACTIVATION, else w x times the routing weight.

    SLOTS_A_ROW: how many slots read one row of x: k for gate and up, 1 for down
    """
    GATED: tl.constexpr = ACTIVATION is not None
    COLUMNS: tl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
    packed_stride = bytes_a_row * BYTES_ALIGN
    scale_stride = scales_a_row * SCALES_ALIGN
    # Neighbouring programs share a block of tokens, and an expert's blocks are neighbours.
    tiles_n = tl.cdiv(N, COLUMNS)
    block = tl.program_id(0) // tiles_n
    first_n = (tl.program_id(0) % tiles_n) * COLUMNS
    if block * BLOCK_M >= tl.load(padded_ptr):
        return
    slot = tl.load(slots_ptr + block * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    real = slot < count
    column = first_n + tl.arange(0, COLUMNS)
    out_at = out_ptr + slot[None, :] * N + column[:, None]
    inside = real[None, :] & (column < N)[:, None]
    expert = tl.load(experts_ptr + block).to(tl.int64)
    if expert < 0:
        nothing = tl.zeros([COLUMNS, BLOCK_M], out_ptr.dtype.element_ty)
        tl.store(out_at, nothing, mask=inside)
        return
    rows = expert * (2 * N if GATED else N) + weight_rows(first_n, N, BLOCK_N, GATED)
    acc = multiply(
        x_ptr + (slot // SLOTS_A_ROW) * x_stride,
        real,
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
    if GATED:
        gate, up = gate_and_up(acc, BLOCK_M, BLOCK_N)
        acc = gated(gate, up, ACTIVATION)
    else:
        acc *= tl.load(weights_ptr + slot, mask=real, other=0.0).to(tl.float32)[None, :]
    tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=inside)


def nvfp4_grouped_experts(
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
    slots: SortedSlots,
    config: Config,
) -> torch.Tensor:
    """Compute what `nvfp4_experts` computes, for any number of tokens.

    slots: topk_ids sorted for blocks of config.block_m
    config: for both matmuls, chosen by "grouped" and the shape of w13
    The product of each slot is rounded to x's dtype before the fp32 sum.
    """
    w13 = (w13_packed, w13_block_scale, w13_row_scale)
    w2 = (w2_packed, w2_block_scale, w2_row_scale)
    tokens, inner = check_experts(x, topk_ids, topk_weights, w13, w2, activation)
    count, top_k = topk_ids.shape
    hidden = tokens.shape[1]
    out = torch.empty((count, hidden), dtype=x.dtype, device=x.device)
    if count == 0:
        return out
    h = torch.empty((count * top_k, inner), dtype=x.dtype, device=x.device)
    y = torch.empty((count * top_k, hidden), dtype=x.dtype, device=x.device)
    _launch(tokens, slots, topk_weights, w13, h, top_k, activation, config)
    _launch(h, slots, topk_weights, w2, y, 1, None, config)
    sum_slots(y, topk_ids, out)
    return out


def _launch(
    x: torch.Tensor,
    slots: SortedSlots,
    topk_weights: torch.Tensor,
    weight: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    out: torch.Tensor,
    slots_a_row: int,
    activation: Activation | None,
    config: Config,
) -> None:
    """Launch one grouped matmul: out [T * k, columns], x [rows, K]."""
    packed, block_scale, row_scale = weight
    columns = out.shape[1]
    tile_columns = config.block_n if activation is None else config.block_n // 2
    blocks = triton.cdiv(slots.slots.numel(), config.block_m)
    _grouped_kernel[(blocks * triton.cdiv(columns, tile_columns),)](
        x,
        slots.slots,
        slots.experts,
        slots.padded,
        topk_weights,
        packed,
        block_scale.view(torch.uint8),
        row_scale,
        out,
        topk_weights.numel(),
        columns,
        x.stride(0),
        SLOTS_A_ROW=slots_a_row,
        ACTIVATION=activation,
        **launch_arguments(config, x.shape[1], x.device),
    )
