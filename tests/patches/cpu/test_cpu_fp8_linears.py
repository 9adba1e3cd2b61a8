# SPDX-License-Identifier: Apache-2.0
"""Check FP8 linears without a GPU: the scheme that SGLang chooses, and its results."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.cpu import cpu_fp8_linears as patch
from sglang_gemma4_ext.settings import Settings

ROWS, K = (32, 16), 64


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("strategy", ["tensor", "channel"])
def test_a_stacked_linear_is_exact(strategy, static) -> None:
    from sglang.srt.layers.quantization.compressed_tensors import schemes

    scheme, layer = schemes.CompressedTensorsW8A16Fp8(strategy, static), torch.nn.Module()
    scheme.create_weights(layer, K, list(ROWS), K, torch.float32, weight_loader=lambda *args: None)
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(sum(ROWS), K, generator=g).to(torch.float8_e4m3fn)
    scales = torch.rand(len(ROWS) if strategy == "tensor" else sum(ROWS), generator=g) + 0.1
    layer.weight.data.copy_(weight)
    layer.weight_scale.data.copy_(scales.reshape(layer.weight_scale.shape))
    patch._finish(scheme, layer)
    rows = scales.repeat_interleave(torch.tensor(ROWS)) if strategy == "tensor" else scales
    x, bias = torch.randn(3, K, generator=g), torch.randn(sum(ROWS), generator=g)
    want = x.double() @ (weight.double() * rows.double()[:, None]).T + bias.double()
    got = patch._apply(scheme, layer, x, bias)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_sglang_then_chooses_the_weight_only_scheme(activations, monkeypatch) -> None:
    from compressed_tensors.quantization import preset_name_to_scheme
    from sglang.srt.layers.quantization.compressed_tensors import compressed_tensors

    config = compressed_tensors.CompressedTensorsConfig
    monkeypatch.setattr(
        config, "_check_scheme_supported", lambda *args, **kw: patch._supported(None, *args, **kw)
    )
    scheme = preset_name_to_scheme("FP8_DYNAMIC" if activations == "dynamic" else "FP8", ["Linear"])
    parts = (scheme.weights, scheme.input_activations, "float-quantized")
    found = config._get_scheme_from_parts(config({}, [], "float-quantized", {}, []), *parts)
    assert type(found).__name__ == "CompressedTensorsW8A16Fp8"
    assert found.is_static_input_scheme is (activations == "static")


def test_it_is_for_fp8_layers_on_the_cpu() -> None:
    weights = {"num_bits": 8, "type": "float"}
    groups = {"g": {"targets": ["re:.*self_attn.*"], "weights": weights}}
    section = {"quant_method": "compressed-tensors", "config_groups": groups}

    def model(**changes) -> ModelInfo:
        config = {"quantization_config": {**section, **changes}}
        return ModelInfo("", "Gemma4ForConditionalGeneration", config)

    cpu = Settings(cpu=True)
    assert patch.PATCH.stands_down(Context(cpu, model())) is None
    assert "CPU reference" in patch.PATCH.stands_down(Context(Settings(), model()))
    assert "no FP8 layers" in patch.PATCH.stands_down(Context(cpu, model(config_groups={})))
    assert patch._supported(None, SimpleNamespace(), 80)
    assert not patch._supported(None, SimpleNamespace(), 89, error=False)
