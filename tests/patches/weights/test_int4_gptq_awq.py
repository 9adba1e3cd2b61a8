# SPDX-License-Identifier: Apache-2.0
"""Load linears of GPTQ and AWQ; hand SGLang the config of AutoRound; check refusals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.stored import Layer
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.weights import _int4_layers as int4
from sglang_gemma4_ext.patches.weights import int4_gptq_awq as patch
from sglang_gemma4_ext.settings import Settings
from tests.checkpoints import int4_words

WHERE = "model.language_model.layers.0.mlp.gate_up_proj"
ROWS, K = (32, 16), 64
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": True}


@pytest.mark.parametrize("group", [32, -1])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("tool", "bits"), [("gptq", 4), ("awq", 4), ("gptq", 8)])
def test_a_stacked_linear_is_exact(tool, bits, symmetric, group) -> None:
    """FP16 scales are not rounded to the model's dtype; zero points that are all 8 are dropped."""
    kind = "int4-words" if bits == 4 else "int8-words"
    stored = Layer(kind, "scales", "channel", True, tool == "awq", K if group < 0 else group)
    layer, method = torch.nn.Module(), patch._linear()(WHERE, stored, True)

    def load(param: Any, loaded: torch.Tensor, shard: int) -> None:
        sizes = {"shard_offset": sum(ROWS[:shard]), "shard_size": ROWS[shard]}
        param.load_merged_column_weight(loaded, shard_id=shard, tp_rank=0, **sizes)

    method.create_weights(layer, K, list(ROWS), K, sum(ROWS), torch.bfloat16, weight_loader=load)
    exact = []
    for shard, rows in enumerate(ROWS):
        weight = torch.randn(rows, K, generator=torch.Generator().manual_seed(shard))
        tensors, values = int4_words.encode(weight, tool, group, symmetric, bits=bits)
        exact.append(values)
        for leaf in ("qweight", "scales", "qzeros"):
            param = getattr(layer, leaf)
            param.weight_loader(param, tensors[leaf], shard)
    method.process_weights_after_loading(layer)
    assert (layer.qzeros is None) == (symmetric and bits == 4)
    x = torch.randn(5, K, generator=torch.Generator().manual_seed(9))
    want = x.double() @ torch.cat(exact).double().T
    torch.testing.assert_close(method.apply(layer, x).double(), want, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("group", "k", "share", "said"),
    [
        (16, 64, 64, "one scale for 16 weights"),
        (32, 96, 48, "share has 48 in-features, no multiple of the 32"),
    ],
)
def test_groups_without_a_kernel_are_refused(group, k, share, said) -> None:
    with pytest.raises(ValueError, match=said):
        patch.require_servable(WHERE, group, k, share)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (
            GPTQ,
            {"bits": 4, "group_size": 32, "sym": True, "packing_format": "auto_round:auto_gptq"},
        ),
        (AWQ, {"bits": 4, "group_size": 64, "sym": False, "packing_format": "auto_round:auto_awq"}),
    ],
)
def test_sglang_is_handed_the_config_of_autoround(section, expected) -> None:
    from sglang.srt.layers.quantization.auto_round import AutoRoundConfig

    config = SimpleNamespace(
        quantization=None, hf_config=SimpleNamespace(quantization_config=section)
    )
    patch._as_auto_round(config)
    handed = config.hf_config.quantization_config
    assert handed["quant_method"] == "auto-round"
    assert expected.items() <= handed.items()
    assert AutoRoundConfig.from_config(handed).packing_format == expected["packing_format"]


@pytest.mark.parametrize("section", [None, {"quant_method": "fp8"}, {"quant_method": "auto-round"}])
def test_other_configs_and_an_explicit_method_are_kept(section) -> None:
    config = SimpleNamespace(
        quantization=None, hf_config=SimpleNamespace(quantization_config=section)
    )
    patch._as_auto_round(config)
    assert config.hf_config.quantization_config is section
    wider = {**GPTQ, "dynamic": {"+:.*down.*": {"bits": 8}}}
    config.hf_config.quantization_config = wider
    patch._as_auto_round(config)
    assert config.hf_config.quantization_config is wider
    asked = SimpleNamespace(
        quantization="gptq_marlin", hf_config=SimpleNamespace(quantization_config=GPTQ)
    )
    patch._as_auto_round(asked)
    assert asked.hf_config.quantization_config is GPTQ


@pytest.mark.parametrize(
    ("stored", "by_us", "symmetric", "found"),
    [
        (Layer("int4-words", "scales", "channel", True, False, 32), True, True, "ours"),
        (Layer("int4-words", "scales", "channel", True, False, 32), False, True, "SGLang's"),
        (Layer("int4-words", "scales", "channel", True, False, 32), False, False, "ours"),
        (Layer("int4-words", "scales", "channel", True, True, 32), False, False, "SGLang's"),
        (Layer("plain"), True, True, "plain"),
        (Layer("unknown"), True, True, "SGLang's"),
        (None, True, True, "SGLang's"),
    ],
)
def test_who_serves_a_layer(stored, by_us, symmetric, found, monkeypatch) -> None:
    """Marlin has no GPTQ with zero points, so that one is ours on every GPU."""
    monkeypatch.setattr(patch, "is_ours", lambda layer: True)
    monkeypatch.setattr(patch, "stored_layer", lambda config, prefix: stored)
    monkeypatch.setattr(patch, "_is_linear", lambda layer: True)
    monkeypatch.setattr(patch, "plain_method", lambda layer: "plain")
    monkeypatch.setattr(patch, "_linear", lambda: lambda *args: "ours")
    monkeypatch.setattr(int4, "takes", lambda layer, group: by_us)
    config = SimpleNamespace(sym=symmetric, checkpoint_format="")
    assert patch._get_quant_method(lambda *args: "SGLang's", config, None, WHERE) == found


def test_it_is_for_int4_of_these_tools() -> None:
    def reason(section: dict, **settings: Any) -> str | None:
        model = ModelInfo("", "Gemma4ForConditionalGeneration", {"quantization_config": section})
        gpu = Gpu("nvidia", "RTX 3090", (8, 6))
        return patch.PATCH.stands_down(Context(Settings(**settings), model, gpu))

    assert reason(GPTQ) is reason(AWQ) is reason({**GPTQ, "quant_method": "auto-round"}) is None
    assert reason(GPTQ, cpu=True) is reason({**GPTQ, "bits": 8}) is None
    for other in ({**GPTQ, "bits": 2}, {"quant_method": "fp8"}):
        assert "not an INT4 or INT8 one of GPTQ, AWQ or AutoRound" in reason(other)
