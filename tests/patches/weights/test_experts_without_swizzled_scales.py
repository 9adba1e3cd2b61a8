# SPDX-License-Identifier: Apache-2.0
"""Trace allocations while experts load: a layer is never held twice.

The experts have the widths of 26B-A4B; there are 16 of them.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.activation_peaks import allocated_peak
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels.dequantized_ref import WEIGHTS
from sglang_gemma4_ext.kernels.nvfp4_ref import nvfp4_linear_ref
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.weights import (
    _modelopt_layers,
    experts_without_swizzled_scales,
    nvfp4_compressed_tensors,
)
from sglang_gemma4_ext.plan.geometry import BUILT_IN
from sglang_gemma4_ext.plan.weights import swizzled_scales
from sglang_gemma4_ext.settings import Settings
from tests.patches.hooks import hook_of

MODEL = BUILT_IN["26B-A4B"]
EXPERTS, HIDDEN, INNER = 16, MODEL.hidden, MODEL.expert_intermediate
EXPERT_BYTES = 3 * HIDDEN * INNER * 9 // 16
LAYER_BYTES = EXPERTS * EXPERT_BYTES
# Tensor scales, row scales, and the allocator's rounding.
SMALL = 1 << 20


def moe_layer() -> torch.nn.Module:
    layer = torch.nn.Module()
    layer.num_experts = layer.num_local_experts = EXPERTS
    layer.moe_ep_size, layer.layer_name = 1, "model.layers.0.moe.experts"
    layer.moe_runner_config = SimpleNamespace(is_gated=True)
    layer.quant_config = SimpleNamespace(group_size=16)
    layer.intermediate_size_per_partition, layer.params_dtype = INNER, torch.bfloat16
    return layer


def _modelopt() -> tuple[Any, ...]:
    config = SimpleNamespace(group_size=16, is_checkpoint_nvfp4_serialized=True, get_name=str)
    config.use_per_token_activation = False
    method = _modelopt_layers.moe_method()(config)
    return method, method.create_weights, _modelopt_layers.W13, _modelopt_layers.W2


def _compressed_tensors() -> tuple[Any, ...]:
    scheme = nvfp4_compressed_tensors._experts()()
    weights = nvfp4_compressed_tensors.W13, nvfp4_compressed_tensors.W2
    return scheme, scheme.create_weights, *weights


def _copy(param: Any, loaded: torch.Tensor, shard_id: str, expert_id: int) -> None:
    part = param.data[expert_id]
    if part.dim() and part.shape[0] == 2 * INNER:
        part = part.unflatten(0, (2, INNER))
    if shard_id != "w2":
        part = part[0 if shard_id == "w1" else 1]
    part.copy_(loaded.reshape(part.shape))


def _load(layer: torch.nn.Module, weights: tuple[Any, Any]) -> None:
    """Load every expert's tensors through the parameters' loaders, as SGLang's loop does."""
    for weight, shards, rows, k in (
        (weights[0], ("w1", "w3"), INNER, HIDDEN),
        (weights[1], ("w2",), HIDDEN, INNER),
    ):
        for expert in range(EXPERTS):
            for shard in shards:
                for name, loaded in (
                    (weight.packed, torch.full((rows, k // 2), expert, dtype=torch.uint8)),
                    (weight.block, torch.ones(rows, k // 16).to(torch.float8_e4m3fn)),
                    (weight.tensor, torch.ones(1)),
                ):
                    param = getattr(layer, name)
                    param.weight_loader(param, loaded, shard_id=shard, expert_id=expert)


@pytest.fixture(params=[_modelopt, _compressed_tensors])
def loading(request, monkeypatch):
    """loading(layer): create, load and process the experts on our own path."""
    from sglang.srt.layers.quantization import modelopt_quant

    hook = functools.partial(hook_of, experts_without_swizzled_scales.PATCH, "around")
    swizzle = functools.partial(hook("swizzle_blockscale"), modelopt_quant.swizzle_blockscale)
    stock = modelopt_quant.ModelOptNvFp4FusedMoEMethod.create_weights

    def create(self: Any, layer: Any, *args: Any, **kwargs: Any) -> None:
        hook("create_weights")(stock, self, layer, *args, **kwargs)

    monkeypatch.setattr(modelopt_quant, "swizzle_blockscale", swizzle)
    monkeypatch.setattr(modelopt_quant.ModelOptNvFp4FusedMoEMethod, "create_weights", create)
    method, create_weights, *weights = request.param()

    def run(layer: torch.nn.Module) -> None:
        create_weights(
            layer=layer, num_experts=EXPERTS, hidden_size=HIDDEN,
            intermediate_size_per_partition=INNER, moe_intermediate_size=INNER,
            params_dtype=torch.bfloat16, weight_loader=_copy,
        )  # fmt: skip
        _load(layer, weights)
        method.process_weights_after_loading(layer)

    return run


def test_our_own_path_never_holds_a_copy_of_a_layer(loading):
    layer = moe_layer()
    peak = allocated_peak(lambda: loading(layer))
    assert LAYER_BYTES <= peak < LAYER_BYTES + EXPERT_BYTES + SMALL
    assert not any("swizzled" in name for name, _ in layer.named_parameters())


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_sglang_alone_keeps_the_swizzled_scales(tp):
    """Keep 47.6 MB a layer of 26B-A4B: 128 x 3 x 2816 x 704 weights, one byte for each 16.

    The plan of stock SGLang counts the same, including the padding of shards.
    """
    from sglang.srt.layers.quantization import modelopt_quant

    method, layer = _modelopt()[0], moe_layer()
    create = modelopt_quant.ModelOptNvFp4FusedMoEMethod.create_weights
    create(method, layer=layer, num_experts=EXPERTS, hidden_size=HIDDEN,
           intermediate_size_per_partition=INNER // tp, params_dtype=torch.bfloat16,
           weight_loader=_copy)  # fmt: skip
    kept = sum(p.numel() for name, p in layer.named_parameters() if "swizzled" in name)
    assert kept * MODEL.layers * MODEL.experts == EXPERTS * swizzled_scales(MODEL, tp)
    if tp == 1:
        assert kept == EXPERTS * 3 * HIDDEN * INNER // 16
        assert 47.5e6 < kept * 128 / EXPERTS < 47.7e6


@pytest.mark.parametrize(
    ("fmt", "experts", "gpu", "active"),
    [
        ("modelopt", 8, Gpu("nvidia", "H200", (9, 0)), True),
        ("compressed-tensors", 8, Gpu("nvidia", "H200", (9, 0)), False),
        ("modelopt", 0, Gpu("nvidia", "H200", (9, 0)), False),
        (None, 8, Gpu("nvidia", "H200", (9, 0)), False),
        ("modelopt", 8, Gpu("nvidia", "B200", (10, 0)), False),
    ],
)
def test_the_patch_applies_where_nothing_reads_swizzled_scales(fmt, experts, gpu, active):
    config: dict[str, Any] = {"text_config": {"num_experts": experts}}
    if fmt == "modelopt":
        config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    elif fmt:
        config["quantization_config"] = {"quant_method": fmt, "format": "nvfp4-pack-quantized"}
    model = ModelInfo("nowhere", "Gemma4ForConditionalGeneration", config)
    reason = experts_without_swizzled_scales.PATCH.stands_down(
        Context(Settings(), model, gpu, "0.5.23")
    )
    assert (reason is None) is active, reason


def test_a_quantized_lm_head_is_dequantized_in_chunks():
    """Check 262,144 rows, 268 MB in fp32 at K = 256: the exact path copies one chunk at a time."""
    rows, k = MODEL.vocab, 256
    packed = torch.zeros(rows, k // 2, dtype=torch.uint8)
    block = torch.ones(rows, k // 16).to(torch.float8_e4m3fn)
    x, row_scale = torch.ones(1, k), torch.ones(rows)
    peak = allocated_peak(lambda: nvfp4_linear_ref(x, packed, block, row_scale))
    assert peak < 40 * WEIGHTS < rows * k * 4
