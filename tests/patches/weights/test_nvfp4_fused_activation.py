# SPDX-License-Identifier: Apache-2.0
"""Check where the MLP's activation is fused into the NVFP4 matmul, and its operands."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.weights import (
    _layers,
    _modelopt_layers,
    nvfp4_fused_activation,
)
from sglang_gemma4_ext.settings import Settings
from tests.patches.hooks import hook_of

A10G = Gpu("nvidia", "NVIDIA A10G", (8, 6))
forward_mlp = hook_of(nvfp4_fused_activation.PATCH, "around", "forward")


@pytest.mark.parametrize(
    ("nvfp4", "algorithm", "active"),
    [("fused", "NVFP4", True), ("fused", "FP8", False), ("auto", "NVFP4", False)],
)
def test_the_activation_is_fused_only_with_our_kernels(nvfp4, algorithm, active) -> None:
    quantization = {"quant_method": "modelopt", "quant_algo": algorithm}
    config = {"quantization_config": quantization}
    model = ModelInfo("", "Gemma4ForConditionalGeneration", config)
    for settings in (
        Settings(weights=nvfp4),
        Settings(weights=nvfp4, cpu=True, cpu_attention="triton"),
    ):
        reason = nvfp4_fused_activation.PATCH.stands_down(Context(settings, model, A10G))
        assert (reason is None) is active


def test_an_nvfp4_mlp_activates_inside_its_matmul(monkeypatch) -> None:
    """Check the call alone; tests/kernels/test_nvfp4_ops.py checks the operator's numbers."""
    gate_up = SimpleNamespace(**{_modelopt_layers.LINEAR.rows: torch.ones(8)})
    called = []
    monkeypatch.setattr(
        _layers, "apply_gate_up", lambda layer, weight, x: called.append((layer, weight)) or x + 1
    )
    mlp = SimpleNamespace(gate_up_proj=gate_up, down_proj=lambda x: (2 * x, None))
    assert forward_mlp(None, mlp, torch.ones(1)) == 4
    assert called == [(gate_up, _modelopt_layers.LINEAR)]


def test_an_unquantized_mlp_is_left_alone() -> None:
    mlp = SimpleNamespace(gate_up_proj=torch.nn.Linear(4, 4))
    assert forward_mlp(lambda self, x: (self, x), mlp, 1) == (mlp, 1)
