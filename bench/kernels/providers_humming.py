# SPDX-License-Identifier: Apache-2.0
"""Add Humming to the NVFP4 benchmark: the kernels of `humming-kernels`, set up as in SGLang.

SGLang pads a weight to 256 rows and 128 in-features. Its experts run two launches with an
activation between them, and a third that adds a token's slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Weight = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Call = Callable[[torch.Tensor], torch.Tensor]
PAD_N, PAD_K = 256, 128


def described(layer: torch.nn.Module, weight: Weight, sublayer: str = "") -> Any:
    """Give a layer the weight's tensors, as a checkpoint has them, and Humming's record of them.

    weight: packed, block and row scales; one tensor scale for all rows of a linear or an expert
    Returns the record: the kernel's dtypes and its padded shape.
    """
    from humming.layer import HummingMethod
    from humming.schema.modelopt import ModeloptNvfp4WeightSchema

    packed, block, row = weight
    rows, k = packed.shape[-2], 2 * packed.shape[-1]
    experts = len(packed) if packed.dim() == 3 else None
    given = {"weight": packed, "weight_scale": block, "weight_scale_2": row[..., :1].contiguous()}
    schema, tensors = ModeloptNvfp4WeightSchema().convert_humming(
        tensors=given,
        shape_n_stacks=[rows],
        shape_k_stacks=[k],
        param_dtype=torch.bfloat16,
        num_experts=experts,
    )
    for name, tensor in tensors.items():
        full_name = f"{sublayer}_{name}" if sublayer else name
        setattr(layer, full_name, torch.nn.Parameter(tensor, requires_grad=False))
    return HummingMethod.prepare_layer_meta(
        layer=layer,
        shape_n=rows,
        shape_k=k,
        weight_schema=schema,
        num_experts=experts,
        pad_n_to_multiple=PAD_N,
        pad_k_to_multiple=PAD_K,
        torch_dtype=torch.bfloat16,
        sublayer_name=sublayer,
    )


def linear(weight: Weight) -> Call:
    from humming.layer import HummingMethod

    layer = torch.nn.Module()
    described(layer, weight)
    HummingMethod.transform_humming_layer(layer)
    compute = {"use_f16_accum": False, "gemm_type": "dense"}
    return lambda x: HummingMethod.forward_layer(layer=layer, inputs=x, compute_config=compute)


def experts(w13: Weight, w2: Weight, activation: str) -> Callable[..., Call]:
    """Make calls from ids int32 [T, k] and weights fp32 [T, k], by SGLang's MoE runner."""
    from humming.layer import HummingMethod
    from sglang.srt.layers.moe.moe_runner.base import MoeRunnerConfig
    from sglang.srt.layers.moe.moe_runner.humming import HummingRunnerCore

    layer = torch.nn.Module()
    layer.intermediate_size_per_partition = w13[0].shape[1] // 2
    layer.hidden_size, layer.params_dtype = w2[0].shape[1], torch.bfloat16
    for sublayer, weight in {"w13": w13, "w2": w2}.items():
        described(layer, weight, sublayer)
        HummingMethod.transform_humming_layer(layer, sublayer_name=sublayer)
    count = len(w13[0])
    config = MoeRunnerConfig(num_experts=count, num_local_experts=count, activation=activation)
    runner = HummingRunnerCore(config)
    runner.layer = layer

    def routed(ids: torch.Tensor, weights: torch.Tensor) -> Call:
        return lambda x: runner._run_indexed_gemm(
            hidden_states=x, topk_weights=weights, topk_ids=ids
        )

    return routed
