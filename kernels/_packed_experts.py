# SPDX-License-Identifier: Apache-2.0
"""Run routed experts of packed weights: the kernel that INT4 and FP8 experts share.

There are three launches: gate and up with the activation, down with the routing weight, and the sum
of a token's slots (token * k + i) in their order. At decode size a program takes one slot. With
`slots` sorted by expert it takes a block of them, as in SGLang's grouped GEMM.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._nvfp4_tile import gate_and_up, gated, weight_rows
from sglang_gemma4_ext.kernels._packed_tile import Format, Weight, launch_arguments, multiply
from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels._slot_sum import sum_slots
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.nvfp4_checks import (
    check_activation,
    check_activations,
    check_routing,
)
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config, choose
from sglang_gemma4_ext.kernels.nvfp4_grouped import SortedSlots


# One code for every number of tokens.
@triton.jit(do_not_specialize=["count"])
def _packed_experts_kernel(
    x_ptr,
    slots_ptr,
    experts_ptr,
    padded_ptr,
    weights_ptr,
    packed_ptr,
    scale_ptr,
    zero_ptr,
    out_ptr,
    count,
    N,
    x_stride,
    bytes_a_row,
    scales_a_row,
    FORMAT: tl.constexpr,
    SLOTS_A_ROW: tl.constexpr,
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
    """Compute out [T * k, N]: act(gate) * up with an ACTIVATION, else w x times the routing weight.

    slots_ptr: sorted slots, or None: then a block is one slot, and `experts_ptr` are the top-k ids
    SLOTS_A_ROW: how many slots read one row of x: k for gate and up, 1 for down
    """
    GATED: tl.constexpr = ACTIVATION is not None
    COLUMNS: tl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
    tiles_n = tl.cdiv(N, COLUMNS)
    block = tl.program_id(0) // tiles_n
    first_n = (tl.program_id(0) % tiles_n) * COLUMNS
    lane = tl.arange(0, BLOCK_M)
    if slots_ptr is None:
        # The slot is the first column of the narrowest tile that the tensor core has.
        slot = block.to(tl.int64) + tl.zeros_like(lane)
        real = lane == 0
    else:
        if block * BLOCK_M >= tl.load(padded_ptr):
            return
        slot = tl.load(slots_ptr + block * BLOCK_M + lane).to(tl.int64)
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
        packed_ptr,
        scale_ptr,
        zero_ptr,
        rows,
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
    if GATED:
        gate, up = gate_and_up(acc, BLOCK_M, BLOCK_N)
        acc = gated(gate, up, ACTIVATION)
    else:
        acc *= tl.load(weights_ptr + slot, mask=real, other=0.0).to(tl.float32)[None, :]
    tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=inside)


def run_experts(
    fmt: Format,
    x: torch.Tensor,
    routing: tuple[torch.Tensor, torch.Tensor],
    w13: Weight,
    w2: Weight,
    activation: Activation,
    slots: SortedSlots | None,
    config: Config | None,
) -> torch.Tensor:
    """Check activations and routing, and launch. Returns [T, H] in x's dtype. Raises ValueError.

    routing: top-k ids and weights. w13, w2: checked already, but not against each other
    """
    topk_ids, topk_weights = routing
    rows, inner = w13[0].shape[1], w13[0].shape[1] // 2
    hidden = w2[0].shape[1]
    tokens = check_activations(x, hidden)
    check_activation(activation)
    check_routing(x, topk_ids, topk_weights)
    packing = 2 if fmt == "int4" else 1
    require(
        len(w2[0]) == len(w13[0])
        and packing * w13[0].shape[2] == hidden
        and packing * w2[0].shape[2] * 2 == rows,
        "w13 of shape %s and w2 of %s are not the same experts",
        w13[0].shape,
        w2[0].shape,
    )
    require(slots is None or config is not None, "sorted slots need the config of their blocks")
    count, top_k = topk_ids.shape
    out = torch.empty((count, hidden), dtype=x.dtype, device=x.device)
    if count == 0:
        return out
    up = config or choose("experts_up", x.device, count, 2 * inner, hidden)
    down = config or choose("experts_down", x.device, count, hidden, inner)
    h = torch.empty((count * top_k, inner), dtype=x.dtype, device=x.device)
    product = torch.float32 if slots is None else x.dtype
    y = torch.empty((count * top_k, hidden), dtype=product, device=x.device)
    _launch(fmt, tokens, slots, routing, w13, h, top_k, activation, up)
    _launch(fmt, h, slots, routing, w2, y, 1, None, down)
    sum_slots(y, topk_ids, out)
    return out


def _launch(
    fmt: Format,
    x: torch.Tensor,
    slots: SortedSlots | None,
    routing: tuple[torch.Tensor, torch.Tensor],
    weight: Weight,
    out: torch.Tensor,
    slots_a_row: int,
    activation: Activation | None,
    config: Config,
) -> None:
    """Launch one matmul of all slots. out: [T * k, columns]; x: [rows, K]."""
    topk_ids, topk_weights = routing
    columns, count = out.shape[1], topk_ids.numel()
    tile_columns = config.block_n if activation is None else config.block_n // 2
    blocks = count if slots is None else triton.cdiv(slots.slots.numel(), config.block_m)
    _packed_experts_kernel[(blocks * triton.cdiv(columns, tile_columns),)](
        x,
        None if slots is None else slots.slots,
        topk_ids if slots is None else slots.experts,
        None if slots is None else slots.padded,
        topk_weights,
        *weight,
        out,
        count,
        columns,
        x.stride(0),
        SLOTS_A_ROW=slots_a_row,
        ACTIVATION=activation,
        **launch_arguments(fmt, config, x.shape[1], weight),
    )
