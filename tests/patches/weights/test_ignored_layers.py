# SPDX-License-Identifier: Apache-2.0
"""Check that ignore lists of quantized checkpoints get SGLang's module names."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.weights import ignored_layers
from tests.patches.hooks import hook_of

TEXT = SimpleNamespace(
    num_hidden_layers=4,
    num_kv_shared_layers=1,
    attention_k_eq_v=True,
    layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
)


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("model.layers.0.self_attn.q_proj", []),
        ("model.layers.1.self_attn.q_proj", ["model.layers.1.self_attn.v_proj"]),
        (
            "model.layers.3.self_attn.q_proj",
            ["model.layers.3.self_attn.k_proj", "model.layers.3.self_attn.v_proj"],
        ),
        ("model.layers.2.self_attn*", []),
        ("model.layers.0.experts*", ["model.layers.0.moe.experts*"]),
        ("re:.*layers.0.experts.*", ["re:.*layers.0.moe.experts.*"]),
        (
            "model.layers.0.experts",
            ["model.layers.0.moe.experts"]
            + [f"model.layers.0.moe.experts.0.{leaf}_proj" for leaf in ("gate", "up", "down")],
        ),
        (
            "model.layers.0.experts.0.up_proj",
            ["model.layers.0.moe.experts.0.up_proj"],
        ),
        ("lm_head", []),
        ("model.vision_tower*", []),
        ("model.vision_tower.layers.0.self_attn.q_proj.linear", [r"re:.*\bvision_tower\..*"]),
    ],
)
def test_ignored_layers_get_sglangs_names(name: str, added: list[str]) -> None:
    assert ignored_layers.completed([name], TEXT) == [name, *added]


def test_the_hook_completes_the_list_of_either_format() -> None:
    model = SimpleNamespace(hf_text_config=TEXT)
    name = "model.layers.1.self_attn.q_proj"
    for listed in ("exclude_modules", "ignore"):
        config = SimpleNamespace(**{listed: [name]})
        hook_of(ignored_layers.PATCH, "after", "get_quant_config")(config, model)
        assert getattr(config, listed) == [name, name.replace("q_proj", "v_proj")]


def test_stands_down_unless_a_checkpoint_has_such_a_list(tmp_path: Path) -> None:
    ctx = Context(model=ModelInfo(str(tmp_path), "Gemma4ForConditionalGeneration", {}))
    assert "not one of ModelOpt or compressed-tensors" in ignored_layers.PATCH.stands_down(ctx)
    content = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(content))
    assert ignored_layers.PATCH.stands_down(ctx) is None
    integers = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    config = {"quantization_config": integers}
    model = ModelInfo(str(tmp_path), "Gemma4ForConditionalGeneration", config)
    assert ignored_layers.PATCH.stands_down(Context(model=model)) is None
