# SPDX-License-Identifier: Apache-2.0
"""Check the scheme of each layer as read from the files of each quantization tool."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.checkpoint.schemes import PLAIN, UNKNOWN, Scheme

LAYERS = "model.language_model.layers"
Q0, Q1 = f"{LAYERS}.0.self_attn.q_proj", f"{LAYERS}.1.self_attn.q_proj"
DOWN, EXPERT = f"{LAYERS}.1.mlp.down_proj", f"{LAYERS}.1.experts.3.down_proj"
NVFP4, FP8, INT4 = Scheme("nvfp4", 4, 16), Scheme("fp8", 8), Scheme("int", 4, 128)
INT_WEIGHTS = {"num_bits": 4, "type": "int", "group_size": 128}
FP8_WEIGHTS = {"num_bits": 8, "type": "float"}


def ct(groups: dict[str, Any], **section: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": groups, **section}


@pytest.mark.parametrize(
    ("section", "label", "expected"),
    [
        ({}, "", {Q0: PLAIN}),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [f"{LAYERS}.0*"]},
            "NVFP4",
            {Q0: PLAIN, Q1: NVFP4, EXPERT: NVFP4},
        ),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {
                    Q1: {"quant_algo": "FP8"},
                    f"{LAYERS}.1.experts": {"quant_algo": "NVFP4", "group_size": 16},
                },
            },
            "MIXED_PRECISION",
            {Q0: PLAIN, Q1: FP8, EXPERT: NVFP4, DOWN: PLAIN},
        ),
        (
            ct(
                {
                    "a": {"targets": ["Linear"], "weights": INT_WEIGHTS},
                    "b": {"targets": [r"re:.*down_proj$"], "weights": FP8_WEIGHTS},
                },
                format="mixed-precision",
                ignore=["lm_head", r"re:.*layers\.0\..*"],
            ),
            "mixed-precision",
            {Q0: PLAIN, Q1: INT4, DOWN: FP8, EXPERT: FP8},
        ),
        (
            ct({"a": {"targets": ["Linear"], "weights": {**INT_WEIGHTS, "symmetric": False}}}),
            "",
            {Q0: Scheme("int", 4, 128, zeros=True)},
        ),
        (
            ct({"a": {"targets": ["Linear"], "weights": {**INT_WEIGHTS, "actorder": "group"}}}),
            "",
            {Q0: Scheme("int", 4, 128, reordered=True)},
        ),
        (
            ct({"a": {"targets": ["Linear"], "weights": {**INT_WEIGHTS, "actorder": "static"}}}),
            "",
            {Q0: INT4},
        ),
        (ct({}, format="nvfp4-pack-quantized"), "nvfp4-pack-quantized", {Q0: NVFP4}),
        (
            ct({"a": {"format": "nvfp4-pack-quantized", "weights": INT_WEIGHTS}}),
            "nvfp4-pack-quantized",
            {Q0: Scheme("unknown", 4)},
        ),
        (
            {
                "quant_method": "gptq",
                "bits": 4,
                "group_size": 128,
                "dynamic": {r"-:.*layers\.0\.": {}, r"+:.*down": {"bits": 8, "group_size": 32}},
            },
            "gptq",
            {Q0: PLAIN, Q1: INT4, DOWN: Scheme("int", 8, 32)},
        ),
        (
            {
                "quant_method": "awq",
                "bits": 4,
                "group_size": 128,
                "modules_to_not_convert": ["layers.0."],
            },
            "awq",
            {Q0: PLAIN, Q1: INT4},
        ),
        (
            {
                "quant_method": "auto-round",
                "bits": 4,
                "group_size": 128,
                "extra_config": {Q0: {"bits": 16}, ".*down_proj": {"bits": 8}},
            },
            "auto-round",
            {Q0: PLAIN, Q1: INT4, DOWN: Scheme("int", 8, 128)},
        ),
        (
            {
                "quant_method": "bitsandbytes",
                "load_in_4bit": True,
                "llm_int8_skip_modules": ["q_proj"],
            },
            "bitsandbytes",
            {Q0: PLAIN, DOWN: Scheme("bitsandbytes", 4)},
        ),
        ({"quant_method": "fp8", "ignored_layers": [Q0]}, "fp8", {Q0: PLAIN, Q1: FP8}),
        ({"quant_method": "hqq"}, "hqq", {Q0: UNKNOWN}),
    ],
)
def test_each_layer_has_the_scheme_that_its_tool_wrote(section, label, expected) -> None:
    found = describe(ModelInfo("", "", {"quantization_config": section}))
    assert found.label == label
    assert {layer: found.of(layer) for layer in expected} == expected
    assert set(expected.values()) <= found.schemes


def test_layer_names_match_with_any_prefix() -> None:
    section = {"quant_method": "fp8", "ignored_layers": ["language_model.model.layers.0.mlp"]}
    found = describe(ModelInfo("", "", {"quantization_config": section}))
    assert found.of(f"{LAYERS}.0.mlp.up_proj") == PLAIN
    assert found.of("model.layers.0.mlp.up_proj") == PLAIN
    assert found.of("model.layers.10.mlp.up_proj") == FP8


def test_hf_quant_config_counts_where_config_json_says_nothing(tmp_path) -> None:
    content = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["*self_attn*"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(content))
    found = describe(ModelInfo(str(tmp_path), "", {}))
    assert (found.of(Q0), found.of(DOWN)) == (PLAIN, NVFP4)
    assert found.file.name == "hf_quant_config.json"
    fp8 = {"quantization_config": {"quant_method": "fp8"}}
    assert describe(ModelInfo(str(tmp_path), "", fp8)).of(DOWN) == FP8


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}, FP8),
        ({"quant_algo": "NVFP4", "kv_cache_quant_algo": None}, None),
        ({"quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, FP8),
        (ct({}, format="x", kv_cache_scheme={"num_bits": 8, "type": "int"}), Scheme("int", 8)),
        (ct({}, format="x"), None),
        ({"quant_method": "fp8"}, None),
    ],
)
def test_the_kv_cache_scheme_is_read(section, expected) -> None:
    assert describe(ModelInfo("", "", {"quantization_config": section})).kv_cache == expected


def test_a_pattern_that_does_not_compile_is_named() -> None:
    section = ct({}, format="x", ignore=["re:("])
    with pytest.raises(CheckpointError, match=r"invalid pattern '\('"):
        describe(ModelInfo("", "", {"quantization_config": section}))
