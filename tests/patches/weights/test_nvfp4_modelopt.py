# SPDX-License-Identifier: Apache-2.0
"""Check what the patch refuses in ModelOpt checkpoints, and what it leaves to SGLang."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_gemma4_ext.patches.weights import _layers, _modelopt_layers, nvfp4_modelopt

WHERE = "model.language_model.layers.0.mlp.gate_up_proj"


@pytest.fixture
def all_ours(monkeypatch) -> None:
    monkeypatch.setattr(_layers, "takes", lambda layer: True)


def _config(**changes: Any) -> SimpleNamespace:
    given = {"is_checkpoint_nvfp4_serialized": True, "is_awq": False, "group_size": 16, **changes}
    return SimpleNamespace(**given)


def test_a_config_is_refused_in_one_sentence(all_ours) -> None:
    for changes, match in (
        ({"group_size": 32}, "group size 16"),
        ({"is_awq": True}, "plain NVFP4"),
    ):
        with pytest.raises(ValueError, match=match):
            nvfp4_modelopt._get_quant_method(None, _config(**changes), None, WHERE)


def test_a_replicated_linear_passes_its_sizes_by_position() -> None:
    """ModelOpt quantizes per_layer_model_projection, which SGLang does not split over ranks."""
    layer = torch.nn.Module()
    layer.input_size = 64
    method = _modelopt_layers.linear_method()(_config())
    method.layer_name = "model.language_model.per_layer_model_projection"
    sizes = (64, [32], 64, 32, torch.bfloat16)
    method.create_weights(layer, *sizes, weight_loader=lambda *_: None)
    assert layer.weight.shape == (32, 32) and layer.weight_scale.shape == (32, 4)
