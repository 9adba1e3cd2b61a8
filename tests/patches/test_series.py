# SPDX-License-Identifier: Apache-2.0
"""Check every patch record of the series against the installed SGLang."""

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
PACKAGE = "sglang_gemma4_ext"
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
    "literals_by_id",
    "native_tool_grammar",
    "outdated_template",
    "thought_usage",
    "tool_declarations",
}

by_name = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)


@by_name
def test_the_upstream_source_has_the_recorded_digest(patch):
    assert changed_sources(patch) == []


@by_name
def test_the_patch_is_not_retired(patch):
    assert not patch.retired(), (
        f"SGLang does this by itself now ({patch.retire_when}): "
        f"delete patches/{patch.theme}/{patch.name}.py"
    )


@by_name
def test_the_module_has_the_patchs_name_and_the_record_says_why(patch):
    assert (ROOT / "patches" / patch.theme / f"{patch.name}.py").is_file()
    module = f"sglang_gemma4_ext.patches.{patch.theme}.{patch.name}"
    assert importlib.import_module(module).PATCH is patch
    for text in (patch.summary, patch.why, patch.upstream, patch.retire_when):
        assert text
        assert not text.endswith(".")


def test_names_are_unique():
    names = [patch.name for patch in PATCHES]
    assert len(set(names)) == len(names)


# Both are active only for a file with INT4 and FP8 layers, and each passes the other's layers on.
AROUND_TWICE = [
    "sglang.srt.layers.quantization.compressed_tensors.compressed_tensors.CompressedTensorsConfig"
    ".get_quant_method"
]


def test_no_function_has_two_around_hooks():
    """SGLang warns of two at every start: either may leave the other out."""
    targets = [hook.target for patch in PATCHES for hook in patch.hooks if hook.kind == "around"]
    assert sorted(target for target in set(targets) if targets.count(target) > 1) == AROUND_TWICE


@pytest.mark.parametrize("gpu", TARGETS, ids=lambda gpu: gpu.name)
def test_patches_of_the_cpu_reference_are_inactive_on_a_gpu(gpu):
    ctx = Context(Settings(), _model("Gemma4ForConditionalGeneration"), gpu, "0.5.23")
    for patch in PATCHES:
        if patch.theme == "cpu":
            assert patch.stands_down(ctx), patch.name


ALWAYS = {
    "byte_kv_attention",
    "choices_in_order",
    "context_ceiling",
    "embedding_scale",
    "exact_sliding_window",
    "kernels_before_pools",
    "lora_linears",
    "kv_scales_of_owner",
    "memory_reserve",
    "parsers_by_default",
    "readable_kv_dtype",
    "reasoning",
    "request_fields",
    "request_processor",
    "request_samples",
    "checked_download",
    "every_tensor_loaded",
    "names_of_transformers",
    "outer_config_rules",
    "metrics_key",
    "request_sampling",
    "request_tokens",
    "secrets_unlogged",
    "summary_at_ready",
    "weights_kept_on_failure",
    "swa_policy",
    "tool_calls",
}


@pytest.mark.parametrize(
    ("architecture", "text", "own"),
    [
        (
            "Gemma4ForConditionalGeneration",
            {},
            {"text_only", "positions_from_zero"},
        ),
        (
            "Gemma4ForConditionalGeneration",
            {"num_experts": 8},
            {
                "text_only",
                "positions_from_zero",
                "router_scale",
                "experts_tanh_gelu",
            },
        ),
        (
            "Gemma4ForConditionalGeneration",
            {"num_kv_shared_layers": 18},
            {"text_only", "positions_from_zero", "shared_layers_without_kv"},
        ),
        ("Gemma4ForCausalLM", None, {"causal_lm_config"}),
        (
            "Gemma4UnifiedForConditionalGeneration",
            {},
            {
                "text_only",
                "positions_from_zero",
                "unified_without_ple",
                "unified_kv_scales",
            },
        ),
    ],
)
def test_each_model_gets_its_patches_on_a_gpu(architecture, text, own):
    ctx = Context(Settings(), _model(architecture, text), A10G, "0.5.23")
    active = {patch.name for patch in PATCHES if patch.stands_down(ctx) is None}
    assert active == ALWAYS | MTP | CHAT | own


@by_name
def test_each_patch_has_tests_that_exercise_it(patch):
    path = ROOT / "tests" / "patches" / patch.theme / f"test_{patch.name}.py"
    assert path.is_file(), f"write {path.relative_to(ROOT)}"
    tree = ast.parse(path.read_text())
    assert [node for node in ast.walk(tree) if _is_test(node)], f"{path.name} has no test"
    module = f"{PACKAGE}.patches.{patch.theme}.{patch.name}"
    assert _exercises(tree, module), f"{path.name} runs no hook or function of the patch"


def test_reading_a_patchs_record_alone_does_not_exercise_it():
    module = f"{PACKAGE}.patches.memory.swa_policy"
    by_member, by_module = (
        f"from {module} import PATCH, split\n",
        (f"from {PACKAGE}.patches.memory import swa_policy\n"),
    )
    for source, runs in (
        ("assert PATCH.stands_down(1) is None", False),
        ("assert PATCH.required", False),
        ("hook_of(PATCH, 'after', 'f')(1)", True),
        ("split(1)", True),
        ("serve('--gemma4-ext-disable', 'swa_policy')", True),
    ):
        assert _exercises(ast.parse(by_member + source), module) is runs, source
    for source, runs in (
        ("assert swa_policy.PATCH.required", False),
        ("apply(swa_policy.PATCH)", True),
        ("swa_policy.split(1)", True),
    ):
        assert _exercises(ast.parse(by_module + source), module) is runs, source


def test_every_test_of_a_theme_is_collected():
    for theme in {patch.theme for patch in PATCHES}:
        assert (ROOT / "tests" / "patches" / theme / "__init__.py").is_file(), theme


def test_no_patch_imports_another():
    """Keep what two patches share in a module whose name begins with an underscore."""
    for path in sorted((ROOT / "patches").glob("*/*.py")):
        for name in _imports(path):
            parts = name.removeprefix(f"{PACKAGE}.patches.").split(".")
            if name.startswith(f"{PACKAGE}.patches.") and len(parts) > 1:
                assert parts[1].startswith("_"), f"{path.relative_to(ROOT)} imports {name}"


# Which of our folders the code of each may import.
MAY_IMPORT = {
    "kernels": {"kernels"},
    "package": {"package", "kernels", "patches"},
    "patches": {"package", "kernels", "patches"},
    "bench": {"package", "kernels", "patches", "bench"},
    "tests": {"package", "kernels", "patches", "bench", "tests", "docs"},
}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_follow_one_direction(folder):
    """Check the direction kernels <- patches and package <- bench <- tests."""
    for path in _sources(folder):
        found = {_folder_of(name) for name in _imports(path)} - {None}
        assert found <= MAY_IMPORT[folder], path.relative_to(ROOT)


def test_kernels_import_only_torch_and_triton():
    for path in _sources("kernels"):
        outside = {name.partition(".")[0] for name in _imports(path)}
        assert outside <= {"torch", "triton", PACKAGE, *sys.stdlib_module_names}, path


def test_the_package_names_no_patch():
    """Check that the package reaches patches only through patches/series.py."""
    names = {patch.name for patch in PATCHES}
    for path in _sources("package"):
        assert not {n for n in _imports(path) if n.rpartition(".")[2] in names}, path


def _sources(folder: str) -> list[Path]:
    if folder != "package":
        return sorted((ROOT / folder).rglob("*.py"))
    package = ROOT / PACKAGE
    links = {"patches", "kernels"}
    return [
        p for p in sorted(package.rglob("*.py")) if p.relative_to(package).parts[0] not in links
    ]


def _folder_of(name: str) -> str | None:
    """Return the folder of ours that an imported name lies in, or None."""
    first, _, rest = name.partition(".")
    if first == PACKAGE:
        inside = rest.partition(".")[0]
        return inside if inside in ("kernels", "patches") else "package"
    return first if first in ("bench", "tests", "docs") else None


def _exercises(tree: ast.Module, module: str) -> bool:
    """Tell whether test code runs a hook or a function of a patch, or a server without it.

    A hook runs where the record is handed to a function, such as `hook_of` or `apply`.
    """
    room, _, name = module.rpartition(".")
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in (room, module)
        for alias in node.names
    }

    def is_of_patch(node: ast.expr) -> str | None:
        """Return the member of the patch's module that an expression names."""
        match node:
            case ast.Name(id=member) if imported.get(member) == f"{module}.{member}":
                return member
            case ast.Attribute(value=ast.Name(id=owner), attr=member):
                return member if imported.get(owner) == module else None
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and any(is_of_patch(arg) == "PATCH" for arg in node.args):
            return True
        if isinstance(node, ast.Constant) and node.value == name:
            return True
        member = is_of_patch(node) if isinstance(node, ast.expr) else None
        if member is not None and not member.isupper():
            return True
    return False


def _is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test_")


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
