# SPDX-License-Identifier: Apache-2.0
"""Every patch of the series, as a record, against the installed SGLang."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.series import PATCHES
from sglang_gemma4_ext.registry import changed_sources
from sglang_gemma4_ext.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
A10G = Gpu("nvidia", "NVIDIA A10G", (8, 6))
TARGETS = (A10G, Gpu("nvidia", "NVIDIA A100", (8, 0)), Gpu("nvidia", "NVIDIA H200", (9, 0)))

# Any Gemma 4 may be served with an assistant.
MTP = {
    "draft_defaults",
    "draft_position",
    "draft_without_kv",
    "exact_tree_window",
    "swa_state_follows_pool",
}

# Any Gemma 4 may be served to agents.
CHAT = {
    "answers_always_constrained",
    "chat_history",
    "end_of_turn",
    "json_without_loops",
    "native_tool_grammar",
    "outdated_template",
    "thought_usage",
    "tool_declarations",
}

by_name = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)


@by_name
def test_upstream_is_as_it_was_read(patch):
    assert changed_sources(patch) == []


@by_name
def test_is_not_retired(patch):
    assert not patch.retired(), (
        f"SGLang does this by itself now ({patch.retire_when}): "
        f"delete patches/{patch.theme}/{patch.name}.py"
    )


@by_name
def test_has_a_module_of_its_name_and_says_why(patch):
    assert (ROOT / "patches" / patch.theme / f"{patch.name}.py").is_file()
    module = f"sglang_gemma4_ext.patches.{patch.theme}.{patch.name}"
    assert importlib.import_module(module).PATCH is patch
    for text in (patch.summary, patch.why, patch.upstream, patch.retire_when):
        assert text
        assert not text.endswith(".")


def test_names_are_unique():
    names = [patch.name for patch in PATCHES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("gpu", TARGETS, ids=lambda gpu: gpu.name)
def test_nothing_of_the_cpu_reference_is_active_on_a_gpu(gpu):
    ctx = Context(Settings(), _model("Gemma4ForConditionalGeneration"), gpu, "0.5.23")
    for patch in PATCHES:
        if patch.theme == "cpu":
            assert patch.stands_down(ctx), patch.name


ALWAYS = {
    "context_ceiling",
    "exact_sliding_window",
    "kernels_before_pools",
    "memory_reserve",
    "parsers_by_default",
    "reasoning",
    "request_fields",
    "request_samples",
    "request_sampling",
    "request_tokens",
    "secrets_unlogged",
    "swa_policy",
    "tool_calls",
}


@pytest.mark.parametrize(
    ("architecture", "text", "own"),
    [
        ("Gemma4ForConditionalGeneration", {}, {"text_only"}),
        (
            "Gemma4ForConditionalGeneration",
            {"num_experts": 8},
            {"text_only", "router_scale", "experts_tanh_gelu"},
        ),
        (
            "Gemma4ForConditionalGeneration",
            {"num_kv_shared_layers": 18},
            {"text_only", "shared_layers_without_kv"},
        ),
        ("Gemma4ForCausalLM", None, {"causal_lm_config"}),
        (
            "Gemma4UnifiedForConditionalGeneration",
            {},
            {"text_only", "unified_without_ple", "unified_kv_scales"},
        ),
    ],
)
def test_which_patches_a_model_gets_on_a_gpu(architecture, text, own):
    ctx = Context(Settings(), _model(architecture, text), A10G, "0.5.23")
    active = {patch.name for patch in PATCHES if patch.stands_down(ctx) is None}
    assert active == ALWAYS | MTP | CHAT | own


def test_imports_point_one_way():
    """patches -> extension and kernels; kernels -> torch and triton; the extension -> no patch."""
    for path in sorted((ROOT / "kernels").glob("*.py")):
        outside = {name.partition(".")[0] for name in _imports(path)}
        outside -= {"torch", "triton", "sglang_gemma4_ext", *sys.stdlib_module_names}
        assert not outside, path
        inside = {n for n in _imports(path) if n.startswith("sglang_gemma4_ext")}
        assert all(n.startswith("sglang_gemma4_ext.kernels") for n in inside), path
    names = {patch.name for patch in PATCHES}
    for path in sorted((ROOT / "sglang_gemma4_ext").rglob("*.py")):
        if {"patches", "kernels"} & set(path.relative_to(ROOT / "sglang_gemma4_ext").parts):
            continue
        assert not {n for n in _imports(path) if n.rpartition(".")[2] in names}, path


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _model(architecture: str, text: dict | None = None) -> ModelInfo:
    model_type = {
        "Gemma4ForCausalLM": "gemma4_text",
        "Gemma4UnifiedForConditionalGeneration": "gemma4_unified",
    }.get(architecture, "gemma4")
    config = {"architectures": [architecture], "model_type": model_type}
    if text is not None:
        config["text_config"] = text
    return ModelInfo("somewhere", architecture, config)
