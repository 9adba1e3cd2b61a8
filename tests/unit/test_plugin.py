# SPDX-License-Identifier: Apache-2.0
"""Test the plugin in processes of its own: cost, other models, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.harness import environment

BUDGET_SECONDS = 0.3
# Every server process has imported this much before it loads plugins.
AS_A_PROCESS = "import sglang.srt.managers.scheduler, sglang.srt.plugins as plugins, time\n"


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_it_starts_within_its_budget_and_leaves_other_models_alone(llama: Path):
    """Hook one function, which passes a Llama through; SGLang's Gemma 4 code is not imported."""
    code = f"""{AS_A_PROCESS}
import sys
before = set(sys.modules)
started = time.process_time()
plugins.load_plugins()
from sglang_gemma4_ext import plugin
plugin.apply_for({str(llama)!r})
elapsed = time.process_time() - started
from sglang.srt.plugins.hook_registry import HookRegistry
new = sorted(m for m in set(sys.modules) - before if "gemma4_ext.patches" in m or "models." in m)
ours = [target for target, hooks in HookRegistry._hooks.items()
        if any(source and source.plugin_name == "gemma4_ext" for *_, source in hooks)]
print(elapsed, ours == [plugin.BOOTSTRAP], plugin.outcomes(), new)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr[-2000:]
    elapsed, only_bootstrap, *rest = done.stdout.split()
    assert float(elapsed) < BUDGET_SECONDS
    assert only_bootstrap == "True"
    assert rest == ["[]", "[]"]


def test_other_models_run_on_sglangs_own_functions(llama: Path):
    """Compare all members of SGLang's loaded modules and classes: one method differs."""
    code = f"""{AS_A_PROCESS}
import importlib, sys
for name in ("llama", "qwen2", "qwen3", "qwen3_moe", "gemma3_causal", "gemma3_mm"):
    importlib.import_module("sglang.srt.models." + name)
def held():
    owners = [module for name, module in list(sys.modules.items())
              if name.startswith("sglang.") and not name.startswith("sglang.srt.plugins")]
    classes = {{id(c): c for o in owners for c in vars(o).values()
               if isinstance(c, type) and c.__module__.startswith("sglang.")}}
    return {{(id(o), name): (o, value) for o in [*owners, *classes.values()]
            for name, value in vars(o).items()}}
before = held()
plugins.load_plugins()
from sglang_gemma4_ext import plugin
plugin.apply_for({str(llama)!r})
after = held()
print(len(before))
for key, (owner, value) in before.items():
    if after[key][1] is not value:
        print(owner.__name__, key[1])
"""
    done = python(code, SGLANG_PLUGINS="gemma4_ext")
    assert done.returncode == 0, done.stderr[-2000:]
    count, *changed = done.stdout.split("\n")[:-1]
    assert int(count) > 20_000
    assert changed == ["ModelConfig from_server_args"]


def test_it_does_nothing_when_sglang_plugins_leaves_it_out():
    code = f"""{AS_A_PROCESS}
import sys
plugins.load_plugins()
print("sglang_gemma4_ext" in sys.modules)
"""
    done = python(code, SGLANG_PLUGINS="somebody_else")
    assert done.stdout.strip().endswith("False"), done.stderr[-2000:]


def test_a_moved_target_refuses_with_one_message(checkpoint):
    """Name both missing upstream functions and the remedy; nothing is half-patched."""
    code = f"""
import sglang.srt.models.gemma4_causal as causal
import sglang.srt.layers.attention.triton_backend as triton
from sglang.srt.plugins.hook_registry import HookRegistry
del causal.Gemma4Router.fuse_scale
triton.TritonAttnBackend._update_buffers = triton.TritonAttnBackend._update_decode_kv_buffers
del triton.TritonAttnBackend._update_decode_kv_buffers
from sglang_gemma4_ext import plugin
try:
    plugin.apply_for({str(checkpoint("moe"))!r})
finally:
    print(len(HookRegistry._patched))
"""
    done = python(code)
    assert done.returncode == 1
    assert "router_scale: " in done.stderr
    assert "Gemma4Router.fuse_scale is gone" in done.stderr
    assert "TritonAttnBackend._update_decode_kv_buffers is gone" in done.stderr
    assert "--gemma4-ext-disable exact_sliding_window,router_scale" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == "0"


def test_a_changed_function_and_another_version_are_named(checkpoint):
    code = f"""
import importlib.metadata as metadata, linecache
import sglang.srt.models.gemma4_causal as causal
true_version = metadata.version
metadata.version = lambda name: "0.5.22" if name == "sglang" else true_version(name)
import inspect
source = inspect.getsource
inspect.getsource = lambda f: source(f) + (
    "#" if getattr(f, "__qualname__", "") == "Gemma4Router.fuse_scale" else "")
from sglang_gemma4_ext import plugin
plugin.apply_for({str(checkpoint("moe"))!r})
"""
    done = python(code)
    assert done.returncode == 1
    assert "On SGLang 0.5.22" in done.stderr
    assert "Gemma4Router.fuse_scale changed upstream (" in done.stderr


def test_a_lost_bootstrap_stops_the_main_process(checkpoint):
    """Stop the main process, because it alone can tell; its schedulers would run unpatched."""
    code = f"""{AS_A_PROCESS}
import types
from sglang.srt.configs.model_config import ModelConfig
from sglang_gemma4_ext import plugin
plugins.load_plugins()
args = types.SimpleNamespace(
    model_path={str(checkpoint("dense"))!r}, revision=None, tokenizer_path=None,
    skip_tokenizer_init=False, speculative_draft_model_path=None,
    speculative_draft_model_revision=None, load_format="auto", lora_paths=None,
    is_embedding=False)
plugin._on_model_path(args, lambda args: None)
print("held", flush=True)
ModelConfig.from_server_args = ModelConfig.from_server_args.__wrapped__
plugin._on_model_path(args, lambda args: None)
print("went on")
"""
    done = python(code)
    assert done.stdout.split() == ["held"], done.stderr[-2000:]
    assert done.returncode == 1
    assert "did not load the plugin" in done.stderr


def test_an_unknown_name_to_disable_is_named():
    done = python(f"{AS_A_PROCESS}plugins.load_plugins()", SGLANG_GEMMA4_EXT_DISABLE="router_scael")
    assert done.returncode == 1
    assert "no patch is named router_scael" in done.stderr
    assert "router_scale" in done.stderr


def test_doctor_reports_every_patch_as_json(checkpoint):
    done = subprocess.run(
        [sys.executable, "-m", "sglang_gemma4_ext.doctor", "--json", "--model-path",
         str(checkpoint("moe"))],
        env=environment(SGLANG_GEMMA4_EXT_DISABLE="text_only"),
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    data = json.loads(done.stdout)
    states = {patch["name"]: patch["state"] for patch in data["patches"]}
    assert states["router_scale"] == "applied"
    assert states["text_only"] == "disabled"
    assert states["causal_lm_config"] == "stands down"
    assert not any(patch["changed_upstream"] for patch in data["patches"])
    assert data["packages"]["sglang"] == data["verified_on_sglang"]
    assert set(data["formats"]["experts"]) == {"BF16"}
    assert data["starts"]
