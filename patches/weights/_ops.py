# SPDX-License-Identifier: Apache-2.0
"""Register the fused NVFP4 kernels as PyTorch operators, opaque to torch.compile and graphs.

A fake implementation gives the result's shape, so that piecewise compilation traces through them.
"""

from __future__ import annotations

import functools

import torch

from sglang_gemma4_ext.kernels import nvfp4_dispatch
from sglang_gemma4_ext.kernels.nvfp4_experts import nvfp4_experts
from sglang_gemma4_ext.kernels.nvfp4_grouped import (
    SortedSlots,
    nvfp4_grouped_experts,
    sort_slots,
)
from sglang_gemma4_ext.kernels.nvfp4_linear import nvfp4_linear

NAMESPACE = "sglang_gemma4_ext"
_WEIGHT = "Tensor {0}packed, Tensor {0}block_scale, Tensor {0}row_scale"
_LINEAR = f"Tensor x, {_WEIGHT.format('')}, Tensor? bias, str? activation"
_EXPERTS = (
    "Tensor x, Tensor topk_ids, Tensor topk_weights, "
    f"{_WEIGHT.format('w13_')}, {_WEIGHT.format('w2_')}, str activation"
)


@functools.cache
def register() -> torch.library.Library:
    """Define torch.ops.sglang_gemma4_ext.nvfp4_linear and .nvfp4_experts, once a process."""
    library = torch.library.Library(NAMESPACE, "DEF")
    for name, arguments, run, fake in (
        ("nvfp4_linear", _LINEAR, _linear, _linear_fake),
        ("nvfp4_experts", _EXPERTS, _experts, _experts_fake),
    ):
        library.define(f"{name}({arguments}) -> Tensor", tags=(torch.Tag.needs_fixed_stride_order,))
        library.impl(name, run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=library)
    return library


def _linear(x, packed, block_scale, row_scale, bias, activation):
    return nvfp4_linear(x, packed, block_scale, row_scale, bias, activation=activation)


def _linear_fake(x, packed, block_scale, row_scale, bias, activation):
    rows = packed.shape[0]
    return x.new_empty((*x.shape[:-1], rows if activation is None else rows // 2))


def _experts(x, topk_ids, topk_weights, w13_packed, *rest):
    """Run the decode path up to the token limit of the device's table, else the grouped path."""
    table = nvfp4_dispatch.table_of(x.device)
    experts, rows, half = w13_packed.shape
    if len(x) <= table.largest_m("experts_up"):
        return nvfp4_experts(x, topk_ids, topk_weights, w13_packed, *rest)
    config = nvfp4_dispatch.choose("grouped", x.device, len(x), rows, 2 * half)
    slots = _sorted(topk_ids, config.block_m, experts)
    return nvfp4_grouped_experts(
        x, topk_ids, topk_weights, w13_packed, *rest, slots=slots, config=config
    )


def _experts_fake(x, *rest):
    return torch.empty_like(x)


def _sorted(topk_ids: torch.Tensor, block: int, experts: int) -> SortedSlots:
    """Sort slots by SGLang's kernel on a GPU, by ours on a CPU, for which SGLang has none."""
    if not topk_ids.is_cuda:
        return sort_slots(topk_ids, block, experts)
    from sglang.srt.layers.moe.moe_runner.triton_utils.moe_align_block_size import (
        moe_align_block_size,
    )

    return SortedSlots(*moe_align_block_size(topk_ids, block, experts))
