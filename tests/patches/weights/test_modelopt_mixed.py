# SPDX-License-Identifier: Apache-2.0
"""Give each layer of a MIXED_PRECISION checkpoint the method of its format."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.stored import Layer
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.weights import _fp8_layers as fp8
from sglang_gemma4_ext.patches.weights import (
    _layers,
    _modelopt_layers,
    nvfp4_fused_activation,
    nvfp4_modelopt,
)
from sglang_gemma4_ext.patches.weights import modelopt_mixed as patch
from sglang_gemma4_ext.settings import Settings

LAYERS = {
    "nvfp4": Layer("nvfp4", "weight_scale"),
    "fp8": Layer("fp8", "weight_scale"),
    "plain": Layer("plain"),
    "unknown": Layer("unknown"),
    "nothing": None,
}
MIXED = {
    "quant_method": "modelopt",
    "quant_algo": "MIXED_PRECISION",
    "quantized_layers": {"model.layers.0.mlp.down_proj": {"quant_algo": "NVFP4"}},
}


@pytest.fixture
def config(monkeypatch) -> SimpleNamespace:
    monkeypatch.setattr(patch, "is_ours", lambda layer: layer == "linear")
    monkeypatch.setattr(patch, "stored_layer", lambda config, prefix: LAYERS[prefix])
    monkeypatch.setattr(patch, "plain_method", lambda layer: "plain")
    monkeypatch.setattr(_modelopt_layers, "method", lambda layer, where, config: f"nvfp4 {where}")
    monkeypatch.setattr(fp8, "method", lambda layer, where, stored: f"fp8 {where}")
    return SimpleNamespace(nvfp4_config=SimpleNamespace(group_size=16))


def _methods(config: SimpleNamespace) -> list[str]:
    original = lambda *args: "SGLang's"  # noqa: E731
    return [patch._get_quant_method(original, config, "linear", prefix) for prefix in LAYERS]


@pytest.mark.parametrize("ours", [True, False])
def test_each_layer_has_the_method_of_its_format(ours, config, monkeypatch) -> None:
    monkeypatch.setattr(_layers, "takes", lambda layer: ours)
    monkeypatch.setattr(fp8, "takes", lambda layer, marlin: ours)
    found = _methods(config)
    assert found[2:] == ["plain", "SGLang's", "SGLang's"]
    assert found[:2] == (["nvfp4 nvfp4", "fp8 fp8"] if ours else ["SGLang's"] * 2)


def test_attention_and_other_groups_are_left_or_refused(config, monkeypatch) -> None:
    assert patch._get_quant_method(lambda *a: "SGLang's", config, "kv", "fp8") == "SGLang's"
    monkeypatch.setattr(_layers, "takes", lambda layer: True)
    config.nvfp4_config.group_size = 32
    with pytest.raises(ValueError, match="one for every 32"):
        _methods(config)


def test_it_is_for_checkpoints_with_an_algorithm_for_each_layer() -> None:
    def reason(patch, section: dict, **settings) -> str | None:
        config = {"quantization_config": section}
        model = ModelInfo("", "Gemma4ForConditionalGeneration", config)
        gpu = Gpu("nvidia", "RTX 3090", (8, 6))
        return patch.stands_down(Context(Settings(**settings), model, gpu))

    assert reason(patch.PATCH, MIXED) is None
    assert reason(patch.PATCH, MIXED, cpu=True) is None
    assert "algorithm for each layer" in reason(patch.PATCH, {**MIXED, "quant_method": "fp8"})
    assert "modelopt_mixed serves" in reason(nvfp4_modelopt.PATCH, MIXED, cpu=True)
    assert reason(nvfp4_fused_activation.PATCH, MIXED, weights="fused") is None


@pytest.mark.parametrize("algorithm", ["FP8", "fp8_pb_wo", "NVFP4"])
def test_a_mix_without_nvfp4_is_a_mix(algorithm) -> None:
    """SGLang takes it for w4afp8, whose config asks for a field that no such file has."""
    from sglang.srt.configs.model_config import ModelConfig

    layers = {"model.layers.0.mlp.down_proj": {"quant_algo": algorithm}}
    section = {**MIXED, "quantized_layers": layers}
    said = ModelConfig._parse_modelopt_quant_config(None, section)
    assert said["quant_method"] == ("modelopt_mixed" if algorithm == "NVFP4" else "w4afp8")
    assert patch._without_nvfp4(said)["quant_method"] == "modelopt_mixed"
    assert patch._without_nvfp4({"quant_method": "modelopt_fp8"}) == {
        "quant_method": "modelopt_fp8"
    }
    assert patch._without_nvfp4(None) is None
