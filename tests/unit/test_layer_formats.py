# SPDX-License-Identifier: Apache-2.0
"""Test the weight formats of layer classes, and that the planner reads the same description."""

from __future__ import annotations

from pathlib import Path

from sglang_gemma4_ext import demo
from sglang_gemma4_ext.checkpoint.files import Tensor, read_headers
from sglang_gemma4_ext.checkpoint.layer_formats import count_formats
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.checkpoint.schemes import PLAIN, Quantization, Rule, Scheme
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.doctor import render, report
from sglang_gemma4_ext.plan.geometry import from_config
from sglang_gemma4_ext.plan.weights import from_headers, swizzled_scales

LAYER = "model.language_model.layers.0."
NVFP4 = Scheme("nvfp4", 4, 16)
MIXED = Quantization(
    tool="modelopt",
    rules=(
        Rule(f"{LAYER}self_attn", Scheme("fp8", 8)),
        Rule(f"{LAYER}mlp.up_proj", Scheme("int", 4, 128)),
        Rule(f"{LAYER}mlp", Scheme("unknown")),
        Rule(f"{LAYER}experts", NVFP4),
    ),
)
TENSORS = {
    f"{LAYER}self_attn.q_proj.weight": Tensor("F8_E4M3", (8, 8)),
    f"{LAYER}self_attn.q_proj.weight_scale": Tensor("F32", ()),
    f"{LAYER}mlp.up_proj.weight_packed": Tensor("I32", (8, 1)),
    f"{LAYER}mlp.down_proj.weight": Tensor("U8", (8, 4)),
    f"{LAYER}experts.0.up_proj.weight": Tensor("U8", (8, 8)),
    f"{LAYER}experts.0.up_proj.weight_scale_2": Tensor("F32", ()),
    f"{LAYER}router.proj.weight": Tensor("BF16", (2, 8)),
    f"{LAYER}input_layernorm.weight": Tensor("BF16", (8,)),
    "model.language_model.embed_tokens.weight": Tensor("BF16", (16, 8)),
    "model.vision_tower.layers.0.self_attn.q_proj.weight": Tensor("BF16", (8, 8)),
}


def test_each_class_has_its_formats():
    assert count_formats(TENSORS, MIXED) == {
        "attention": {"FP8": 1},
        "mlp": {"INT4 (group 128)": 1, "unknown": 1},
        "experts": {"NVFP4 (group 16)": 1},
        "router": {"BF16": 1},
        "embeddings": {"BF16": 1},
    }


def test_fused_experts_without_a_leaf_count():
    fused = {f"{LAYER}experts.gate_up_proj": Tensor("BF16", (4, 8, 8))}
    assert count_formats(fused, Quantization()) == {"experts": {"BF16": 1}}


def test_a_checkpoint_of_llm_compressor():
    folder = Path(__file__).parents[1] / "checkpoints" / "fixtures" / "llmcompressor_moe"
    counted = count_formats(read_headers(folder), describe(read_model_info(str(folder))))
    assert counted["experts"] == {"NVFP4 (group 16)": 24} and counted["router"] == {"BF16": 2}


def test_the_doctor_names_the_format_of_each_layer_class():
    model = read_model_info(str(demo.model_path()))
    data = report([], Context(model=model))
    assert data["formats"]["experts"] == {"NVFP4 (group 16)": 144}
    lines = render(data).splitlines()
    assert any(line.split() == ["experts", "NVFP4", "(group", "16)", "x", "144"] for line in lines)
    assert "formats   attention  NVFP4 (group 16) x 22" in lines
    assert report([], Context())["formats"] == {}


def test_the_planner_believes_the_description_and_not_the_names_of_tensors():
    """Scales beside experts that the files call plain are leftovers."""
    model = read_model_info(str(demo.model_path()))
    geometry, tensors = from_config(model), read_headers(demo.model_path())
    declared = from_headers(tensors, geometry, quantization=describe(model))
    assert declared.nvfp4_experts and declared.swizzled == swizzled_scales(geometry)
    plain = Quantization("modelopt", rules=(Rule(".experts.", PLAIN, "part"),), default=NVFP4)
    ignored = from_headers(tensors, geometry, quantization=plain)
    assert not ignored.nvfp4_experts and ignored.swizzled == 0
    assert ignored.parts == declared.parts
