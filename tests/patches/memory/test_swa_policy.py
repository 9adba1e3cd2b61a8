# SPDX-License-Identifier: Apache-2.0
"""Check which split of KV memory a server gets: the user's, the shared pool or a solved ratio."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.checkpoints.shapes import write_config
from bench.checkpoints.tiny import WINDOW
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo, read_model_info
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.memory import swa_policy
from sglang_gemma4_ext.plan import planner, policy, pools
from sglang_gemma4_ext.plan.cards import CARDS
from sglang_gemma4_ext.plan.geometry import BUILT_IN, from_config
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.served import NO_DRAFT, Draft
from sglang_gemma4_ext.plan.sizes import GIB
from sglang_gemma4_ext.plan.weights import estimate
from sglang_gemma4_ext.settings import Settings
from tests.checkpoints.assistant import build_assistant
from tests.patches.upstream_pools import configurator

ROOT = Path(__file__).resolve().parents[3]
A10G = Gpu("nvidia", "NVIDIA A10G", (8, 6))
B200 = Gpu("nvidia", "NVIDIA B200", (10, 0))
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(policy.UNTESTED_BESIDE),
    "swa_full_tokens_ratio": None,
    "enable_unified_memory": False,
    "revision": None,
    "disaggregation_mode": "null",
    "pp_size": 1,
    "dcp_size": 1,
    "kv_cache_dtype": "auto",
    "attention_backend": "triton",
    "prefill_attention_backend": None,
    "decode_attention_backend": None,
}


@pytest.fixture
def declared(monkeypatch, tmp_path):
    """declared(model, policy, gpu, **flags): what the patch declares for this server."""
    from sglang.srt.arg_groups import overrides

    def run(model: str, policy: str = "auto", gpu: Gpu = A10G, **flags: Any) -> dict[str, Any]:
        path = write_config(BUILT_IN[model], tmp_path / model)
        found: dict[str, Any] = {}
        monkeypatch.setattr(overrides, "resolving_view", lambda args: args)
        monkeypatch.setattr(overrides, "resolved_view", lambda args: args)
        monkeypatch.setattr(overrides, "declare_resolution", lambda a, s, **kw: found.update(kw))
        monkeypatch.setattr(swa_policy, "detect_gpu", lambda: gpu)
        settings = Settings(swa_policy=policy)
        monkeypatch.setattr(swa_policy.Settings, "from_env", lambda: settings)
        swa_policy._choose(SimpleNamespace(**{**DEFAULTS, "model_path": str(path), **flags}))
        return found

    return run


@pytest.mark.parametrize("model", sorted(BUILT_IN))
def test_auto_shares_memory_between_both_pools(declared, model):
    assert declared(model) == {"enable_unified_memory": True}


@pytest.mark.parametrize(
    ("model", "ratio"),
    [("26B-A4B", {"swa_full_tokens_ratio": 0.15}), ("31B", {}), ("12B", {}), ("E4B", {})],
)
def test_seed_applies_to_mixtures_of_experts(declared, model, ratio):
    assert declared(model, "seed") == ratio
    assert declared(model, "seed", B200) == ratio


@pytest.mark.parametrize(
    "architecture",
    [
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration",
    ],
)
def test_every_architecture_has_the_policies(declared, monkeypatch, architecture):
    def of_that_class(*args: Any) -> ModelInfo:
        return replace(read_model_info(*args), architecture=architecture)

    monkeypatch.setattr(swa_policy, "read_model_info", of_that_class)
    assert declared("26B-A4B", "seed") == {"swa_full_tokens_ratio": 0.15}
    assert declared("26B-A4B", "auto") == {"enable_unified_memory": True}


@pytest.mark.parametrize("model", sorted(BUILT_IN))
def test_upstream_changes_nothing(declared, model):
    assert declared(model, "upstream") == {}


@pytest.mark.parametrize("policy", ["auto", "seed", "upstream"])
@pytest.mark.parametrize("flag", [{"swa_full_tokens_ratio": 0.5}, {"enable_unified_memory": True}])
def test_the_users_flag_takes_precedence(declared, policy, flag):
    assert declared("26B-A4B", policy, **flag) == {}


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"speculative_algorithm": "FROZEN_KV_MTP"}, "--speculative-algorithm is set"),
        ({"enable_hierarchical_cache": True}, "--enable-hierarchical-cache is set"),
        ({"attention_backend": "torch_native"}, "attention runs on torch_native"),
        ({"decode_attention_backend": "fa4"}, "attention runs on fa4"),
        ({"disaggregation_mode": "decode"}, "spread over"),
        ({"pp_size": 2}, "spread over"),
        ({"kv_cache_dtype": "nvfp4"}, "--kv-cache-dtype is nvfp4"),
        ({"gpu": B200}, "no other is tested on this GPU"),
    ],
)
def test_the_log_says_why_memory_is_not_shared(declared, caplog, flags, reason):
    caplog.set_level("INFO")
    assert declared("31B", **flags) == {}
    assert reason in caplog.text


@pytest.mark.parametrize("name", ["a10g", "h100", "b200"])
@pytest.mark.parametrize("policy_name", ["auto", "seed", "upstream"])
@pytest.mark.parametrize("draft", [NO_DRAFT, Draft("draft", GIB, 4, 4)])
@pytest.mark.parametrize("model", sorted(BUILT_IN))
def test_plan_and_server_split_alike(declared, model, draft, policy_name, name):
    card, geometry = CARDS[name], BUILT_IN[model]
    gpu = Gpu("nvidia", card.title, card.capability)
    flags = {"speculative_algorithm": "NEXTN"} if draft else {}
    served = declared(model, policy_name, gpu, **flags)
    held = estimate(geometry, "nvfp4")
    asked = Question(geometry, held, card.memory, draft=draft, policy=policy_name)
    answer = planner.make(replace(asked, capability=card.capability))
    assert served.get("enable_unified_memory", False) == (answer.pools.shared_bytes is not None)
    if policy_name != "auto":
        assert answer.ratio == served.get("swa_full_tokens_ratio", pools.UPSTREAM_RATIO)
    elif name == "b200":
        assert answer.ratio == pools.UPSTREAM_RATIO
    elif answer.pools.shared_bytes is None:
        serving = pools.Serving(chunk=answer.load.chunk, draft_tokens=draft.tokens)
        assert answer.ratio == pools.solve_ratio(
            max(0, answer.parts["kv"]), answer.kv, geometry.window, geometry.max_context, serving
        )


def solved(monkeypatch, folder, budget: int = 40 * GIB, *, unified: bool = False, **schedule: Any):
    """Return `_solved_ratio` of the 31B on SGLang's own configurator."""
    from sglang.srt import runtime_context
    from sglang.srt.model_executor import pool_configurator

    geometry = BUILT_IN["31B"]
    theirs = configurator(monkeypatch, folder, geometry, unified=unified)
    values = {
        "_swa_full_tokens_ratio_explicitly_set": False,
        "max_total_tokens": None,
        "max_running_requests": None,
        "chunked_prefill_size": 4096,
        "disable_overlap_schedule": False,
        **schedule,
    }
    monkeypatch.setattr(runtime_context, "get_schedule", lambda: SimpleNamespace(**values))
    memory = SimpleNamespace(enable_unified_memory=unified)
    monkeypatch.setattr(runtime_context, "get_memory", lambda: memory)
    spec = SimpleNamespace(speculative_num_draft_tokens=4)
    monkeypatch.setattr(runtime_context, "get_spec", lambda: spec)
    monkeypatch.setattr(pool_configurator, "create_memory_pool_configurator", lambda kvc: theirs)
    kvc = SimpleNamespace(
        model_config=SimpleNamespace(context_len=geometry.max_context),
        page_size=1,
        sliding_window_size=geometry.window - 1,
    )
    return swa_policy._solved_ratio(kvc, budget)


def test_a_draft_gets_the_solved_split(monkeypatch, tmp_path):
    geometry, serving = BUILT_IN["31B"], pools.Serving(draft_tokens=4)
    kv, window, context = pools.kv_bytes(geometry), geometry.window, geometry.max_context
    ratio = solved(monkeypatch, tmp_path)
    assert ratio == pools.solve_ratio(40 * GIB, kv, window, context, serving)
    assert ratio < 0.2
    fewer = solved(monkeypatch, tmp_path, max_running_requests=4)
    assert fewer == pools.solve_ratio(40 * GIB, kv, window, context, serving, max_requests=4)


def test_nothing_is_solved_on_a_blackwell(monkeypatch, tmp_path):
    monkeypatch.setattr(swa_policy, "detect_gpu", lambda: B200)
    assert solved(monkeypatch, tmp_path) is None


@pytest.mark.parametrize(
    "schedule",
    [{"_swa_full_tokens_ratio_explicitly_set": True}, {"max_total_tokens": 9}, {"unified": True}],
)
def test_pools_sized_by_the_user_are_not_solved(monkeypatch, tmp_path, schedule):
    assert solved(monkeypatch, tmp_path, **schedule) is None


@pytest.mark.parametrize("policy", ["seed", "upstream"])
def test_other_policies_solve_nothing(monkeypatch, tmp_path, policy):
    settings = Settings(swa_policy=policy)
    monkeypatch.setattr(swa_policy.Settings, "from_env", lambda: settings)
    assert solved(monkeypatch, tmp_path) is None


def test_sglangs_request_cap_is_kept(monkeypatch, tmp_path):
    from sglang.srt.model_executor import pool_configurator

    capped = object.__new__(pool_configurator.SWARequestCapPoolConfigurator)
    monkeypatch.setattr("tests.patches.memory.test_swa_policy.configurator", lambda *a, **k: capped)
    assert solved(monkeypatch, tmp_path) is None


def on_a_real_runner(target: Path, budget: int, *flags: str) -> tuple[dict[str, Any], str]:
    """Return what `solve_on_a_real_runner` prints, and SGLang's log."""
    command = [
        sys.executable,
        "-m",
        "tests.probes.solve_on_a_real_runner",
        str(target),
        str(budget),
    ]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("drafting", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_real_runner_splits_its_budget_as_solved(checkpoint, tmp_path, drafting):
    """Run SGLang's ModelRunner on the tiny dense model in fp32: 1024 and 2048 bytes a token.

    An assistant of three layers changes the tokens in flight but not the bytes per token.
    """
    budget, target = 400_000_000, checkpoint("dense")
    flags = ("--draft", str(build_assistant(target, tmp_path / "draft"))) if drafting else ()
    found, log = on_a_real_runner(target, budget, *flags)
    assert found["draft_tokens"] == (4 if drafting else 1)
    kv = pools.KvBytes(1024, 2048)
    serving = pools.Serving(
        chunk=found["chunk"], draft_tokens=found["draft_tokens"], overlap=found["overlap"]
    )
    ratio = pools.solve_ratio(
        budget, kv, WINDOW, found["context"], serving, max_requests=found["requests"]
    )
    expected = pools.split(budget, kv, ratio)
    assert found["ratio"] == ratio < 0.8
    assert (found["full"], found["swa"]) == (expected.full, expected.swa)
    assert 0.99 * budget < 1024 * found["full"] + 2048 * found["swa"] <= budget
    assert f"ratio {ratio:g} has the best worst load" in log


@pytest.mark.slow
def test_the_seeds_split_is_logged_with_its_pools(checkpoint):
    """Check a mixture of experts: 0.15 sliding tokens per full token, 1024 and 2048 bytes each."""
    budget = 400_000_000
    found, log = on_a_real_runner(checkpoint("moe"), budget, "--policy", "seed")
    expected = pools.split(budget, pools.KvBytes(1024, 2048), 0.15)
    assert (found["ratio"], found["full"], found["swa"]) == (0.15, expected.full, expected.swa)
    assert "KV split (seed): swa_full_tokens_ratio=0.15 for a mixture of experts" in log
    assert f"KV split: {expected.full} tokens of full attention, {expected.swa} of sliding" in log


@pytest.mark.slow
def test_without_draft_without_kv_half_the_budget_is_unused(checkpoint, tmp_path):
    """Count the assistant's three layers as full ones, beside two of the tiny target."""
    budget, target = 400_000_000, checkpoint("dense")
    draft = str(build_assistant(target, tmp_path / "draft"))
    found, _ = on_a_real_runner(target, budget, "--draft", draft, "--without", "draft_without_kv")
    cell = 512 * (2 + 3) + found["ratio"] * 2048
    assert found["full"] == pytest.approx(budget / cell, rel=1e-4)
    assert 1024 * found["full"] + 2048 * found["swa"] < 0.55 * budget


@pytest.mark.slow
@pytest.mark.parametrize("left_out", [(), ("--without", "shared_layers_without_kv")])
def test_shared_layers_take_rows_only_without_the_patch(checkpoint, left_out):
    budget, target = 400_000_000, checkpoint("e2b")
    geometry = from_config(read_model_info(str(target)))
    found, _ = on_a_real_runner(target, budget, *left_out)
    kv = pools.kv_bytes(geometry, 4, shared_layers_too=bool(left_out))
    used = kv.full * found["full"] + kv.swa * found["swa"]
    assert 0.99 * budget < used <= budget
