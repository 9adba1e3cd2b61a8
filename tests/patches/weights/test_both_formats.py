# SPDX-License-Identifier: Apache-2.0
"""Check ModelOpt and compressed-tensors alike: when the patches act, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.weights import (
    _layers,
    _modelopt_layers,
    nvfp4_compressed_tensors,
    nvfp4_modelopt,
)
from sglang_gemma4_ext.settings import Settings, SettingsError

MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
TENSORS = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
MIXED = {
    "quant_method": "compressed-tensors",
    "format": "mixed-precision",
    "config_groups": {"a": {"format": "nvfp4-pack-quantized"}, "b": {"format": "float-quantized"}},
}
FORMATS = {"modelopt": nvfp4_modelopt.PATCH, "tensors": nvfp4_compressed_tensors.PATCH}
RTX3090, B200 = Gpu("nvidia", "RTX 3090", (8, 6)), Gpu("nvidia", "B200", (10, 0))
CPU = {"settings": Settings(cpu=True)}
WHERE = "model.language_model.layers.0.mlp.gate_up_proj"


def _model(quantization: dict[str, Any] | None, path: str = "") -> ModelInfo:
    extra = {"quantization_config": quantization} if quantization else {}
    return ModelInfo(path, "Gemma4ForConditionalGeneration", extra)


@pytest.mark.parametrize(
    ("quantization", "format_of"),
    [
        (MODELOPT, "modelopt"),
        ({**MODELOPT, "quant_algo": "W4A16_NVFP4"}, "modelopt"),
        (TENSORS, "tensors"),
        (MIXED, "tensors"),
        ({**MODELOPT, "quant_algo": "FP8"}, None),
        ({**TENSORS, "format": "float-quantized"}, None),
        (None, None),
    ],
)
def test_each_patch_applies_to_checkpoints_of_its_format(quantization, format_of, tmp_path) -> None:
    ctx = Context(model=_model(quantization, str(tmp_path)), **CPU)
    for name, patch in FORMATS.items():
        reason = patch.stands_down(ctx)
        assert reason is None if name == format_of else "not an NVFP4 one" in reason


def test_hf_quant_config_alone_is_enough(tmp_path: Path) -> None:
    content = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(content))
    model = _model(None, str(tmp_path))
    assert FORMATS["modelopt"].stands_down(Context(model=model, **CPU)) is None
    assert FORMATS["tensors"].stands_down(Context(model=model, **CPU))


@pytest.mark.parametrize("patch", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(
    ("nvfp4", "gpu", "reason"),
    [
        ("auto", RTX3090, "Marlin kernels serve NVFP4"),
        ("marlin", RTX3090, "leaves NVFP4 to SGLang"),
        ("dequant", RTX3090, None),
        ("dequant", B200, "compute capability 8.0 to 9.x"),
        ("dequant", Gpu("amd", "MI300X"), "compute capability 8.0 to 9.x; here: MI300X"),
    ],
)
def test_on_a_gpu_only_dequant_selects_the_exact_path(patch, nvfp4, gpu, reason) -> None:
    found = patch.stands_down(Context(Settings(weights=nvfp4), gpu=gpu))
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize("nvfp4", ["auto", "dequant"])
def test_without_a_gpu_auto_selects_the_exact_path(nvfp4: str) -> None:
    for patch in FORMATS.values():
        assert patch.stands_down(Context(Settings(weights=nvfp4, cpu=True))) is None


def test_without_a_gpu_marlin_is_refused() -> None:
    with pytest.raises(SettingsError, match="--gemma4-weights marlin needs a GPU"):
        Settings(weights="marlin", cpu=True)


def _config(**changes: Any) -> SimpleNamespace:
    given = {"is_checkpoint_nvfp4_serialized": True, "is_awq": False, "group_size": 16, **changes}
    return SimpleNamespace(**given)


def test_shapes_for_marlin_get_sglangs_own_method(monkeypatch) -> None:
    monkeypatch.setattr(_layers, "takes", lambda layer: False)
    weights = SimpleNamespace(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    scheme = {"weights": weights, "input_activations": None}
    config = _config(
        get_scheme_dict=lambda *args: scheme, _add_fused_moe_to_target_scheme_map=lambda: None
    )
    for choose in (
        nvfp4_modelopt._get_quant_method,
        nvfp4_compressed_tensors._linear_scheme,
        nvfp4_compressed_tensors._moe_scheme,
    ):
        assert choose(lambda *args: "SGLang's", config, None, WHERE) == "SGLang's"


@pytest.mark.parametrize(
    "method",
    [_modelopt_layers.moe_method, nvfp4_compressed_tensors._experts],
    ids=["modelopt", "tensors"],
)
def test_a_shard_with_partial_blocks_is_refused(method) -> None:
    """Split the 26B-A4B's width of 704 over 8 ranks."""
    layer = SimpleNamespace(moe_ep_size=1, layer_name="model.layers.0.moe.experts")
    given = {"intermediate_size_per_partition": 88, "moe_intermediate_size": 704}
    with pytest.raises(
        ValueError, match=r"experts: a tensor-parallel shard has 88 .* smaller --tp-size"
    ):
        method().create_weights(
            None, layer=layer, num_experts=128, hidden_size=2816, weight_loader=None, **given
        )


def test_expert_parallel_is_refused() -> None:
    layer = SimpleNamespace(moe_ep_size=2, layer_name="model.layers.0.moe.experts")
    with pytest.raises(ValueError, match=r"moe\.experts: .*--ep-size 1"):
        _layers.require_runnable_experts(layer)
