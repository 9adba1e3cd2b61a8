# SPDX-License-Identifier: Apache-2.0
"""Register the fused kernels as PyTorch operators, opaque to torch.compile and to graphs.

A fake implementation gives the result's shape, so that piecewise compilation traces through them.
"""

from __future__ import annotations

import functools

import torch

from sglang_gemma4_ext.kernels import nvfp4_dispatch
from sglang_gemma4_ext.kernels.fp8_experts import fp8_experts
from sglang_gemma4_ext.kernels.fp8_linear import fp8_linear
from sglang_gemma4_ext.kernels.int4_experts import int4_experts
from sglang_gemma4_ext.kernels.int4_linear import int4_linear
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config
from sglang_gemma4_ext.kernels.nvfp4_experts import nvfp4_experts
from sglang_gemma4_ext.kernels.nvfp4_grouped import (
    SortedSlots,
    nvfp4_grouped_experts,
    sort_slots,
)
from sglang_gemma4_ext.kernels.nvfp4_linear import nvfp4_linear

NAMESPACE = "sglang_gemma4_ext"
_NVFP4 = "Tensor {0}packed, Tensor {0}block_scale, Tensor {0}row_scale"
_INT4 = "Tensor {0}packed, Tensor {0}scale, Tensor? {0}zero"
_FP8 = "Tensor {0}codes, Tensor {0}scale"
_LINEAR = "Tensor x, {}, Tensor? bias, str? activation"
_EXPERTS = "Tensor x, Tensor topk_ids, Tensor topk_weights, {}, {}, str activation"


def _linear_arguments(weight: str) -> str:
    return _LINEAR.format(weight.format(""))


def _experts_arguments(weight: str) -> str:
    return _EXPERTS.format(weight.format("w13_"), weight.format("w2_"))


@functools.cache
def register() -> torch.library.Library:
    """Define nvfp4_linear, nvfp4_experts and those of INT4 and FP8 once a process."""
    library = torch.library.Library(NAMESPACE, "DEF")
    for name, arguments, run, fake in (
        ("nvfp4_linear", _linear_arguments(_NVFP4), _linear, _linear_fake),
        ("nvfp4_experts", _experts_arguments(_NVFP4), _experts, _experts_fake),
        ("int4_linear", _linear_arguments(_INT4), _int4_linear, _linear_fake),
        ("int4_experts", _experts_arguments(_INT4), _int4_experts, _experts_fake),
        ("fp8_linear", _linear_arguments(_FP8), _fp8_linear, _fp8_linear_fake),
        ("fp8_experts", _experts_arguments(_FP8), _fp8_experts, _experts_fake),
    ):
        library.define(f"{name}({arguments}) -> Tensor", tags=(torch.Tag.needs_fixed_stride_order,))
        library.impl(name, run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=library)
    return library


def _linear(x, packed, block_scale, row_scale, bias, activation):
    return nvfp4_linear(x, packed, block_scale, row_scale, bias, activation=activation)


def _int4_linear(x, packed, scale, zero, bias, activation):
    return int4_linear(x, packed, scale, zero, bias, activation=activation)


def _fp8_linear(x, codes, scale, bias, activation):
    return fp8_linear(x, codes, scale, bias, activation=activation)


def _fp8_linear_fake(x, codes, scale, bias, activation):
    return _linear_fake(x, codes, scale, None, bias, activation)


def _linear_fake(x, packed, scale, other, bias, activation):
    rows = packed.shape[0]
    return x.new_empty((*x.shape[:-1], rows if activation is None else rows // 2))


def _experts(x, topk_ids, topk_weights, w13_packed, *rest):
    config, slots = _grouping(x, topk_ids, w13_packed)
    if config is None or slots is None:
        return nvfp4_experts(x, topk_ids, topk_weights, w13_packed, *rest)
    return nvfp4_grouped_experts(
        x, topk_ids, topk_weights, w13_packed, *rest, slots=slots, config=config
    )


def _int4_experts(x, topk_ids, topk_weights, w13_packed, *rest):
    config, slots = _grouping(x, topk_ids, w13_packed)
    return int4_experts(x, topk_ids, topk_weights, w13_packed, *rest, slots=slots, config=config)


def _fp8_experts(x, topk_ids, topk_weights, w13_codes, *rest):
    config, slots = _grouping(x, topk_ids, w13_codes)
    return fp8_experts(x, topk_ids, topk_weights, w13_codes, *rest, slots=slots, config=config)


def _grouping(
    x: torch.Tensor, topk_ids: torch.Tensor, packed: torch.Tensor
) -> tuple[Config, SortedSlots] | tuple[None, None]:
    """Sort slots, and choose the config, beyond the token limit of the decode path."""
    table = nvfp4_dispatch.table_of(x.device)
    experts, rows, _ = packed.shape
    if len(x) <= table.largest_m("experts_up"):
        return None, None
    config = nvfp4_dispatch.choose("grouped", x.device, len(x), rows, x.shape[1])
    return config, _sorted(topk_ids, config.block_m, experts)


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
