# SPDX-License-Identifier: Apache-2.0
"""Serve a model only if its checkpoint wrote each of its weights, once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sglang_gemma4_ext import PREFIX
from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.patches.checkpoints._places import missing_names, need_of
from sglang_gemma4_ext.patches.checkpoints._writes import Writes
from sglang_gemma4_ext.patches.checkpoints.every_tensor_loaded import (
    _refuse_two,
    _report,
    _require_order,
)
from tests.checkpoints.assistant import build_assistant
from tests.checkpoints.nvfp4 import quantize_checkpoint
from tests.serving.harness import OURS, STOCK, environment, run_to_end

LAYERS = "model.language_model.layers"


def model() -> torch.nn.Module:
    """Make a linear of three stacked parts, one of experts, and a buffer."""
    made = torch.nn.Module()
    made.linear = torch.nn.Parameter(torch.empty(6, 4), requires_grad=False)
    made.experts = torch.nn.Parameter(torch.empty(3, 4, 2), requires_grad=False)
    made.register_buffer("scalar", torch.ones(1))
    return made


def test_writes_are_counted_where_they_land() -> None:
    made = model()
    writes = Writes(made)
    with writes:
        for name, value in writes.named([("q", torch.ones(2, 4)), ("k", torch.ones(2, 4))]):
            start = 0 if name == "q" else 2
            made.linear.data.narrow(0, start, 2).copy_(value)
    assert writes.written(made.linear) == 16 and writes.writers(made.linear) == {"q", "k"}
    assert writes.written(made.experts) == writes.written(made.scalar) == 0
    assert writes.used == {"q", "k"} and writes.written_twice(made.linear) is None


def test_two_tensors_for_one_needed_weight_are_refused_by_name() -> None:
    weight = "model.layers.0.self_attn.qkv_proj.weight"
    with pytest.raises(CheckpointError, match=r"/m holds a\.v_proj and b\.v_proj, which are the"):
        _refuse_two("/m", weight, ("a.v_proj", "b.v_proj"))


def test_what_is_not_refused_is_counted_in_the_log(caplog) -> None:
    _report("/m", ["extra.weight", "other"], ["layer_scalar"])
    unknown, unsure = caplog.messages
    assert "2 tensors" in unknown and "first extra.weight" in unknown
    assert "1 tensors" in unsure and "first layer_scalar" in unsure
    caplog.clear()
    _report("/m", [], [])
    assert not caplog.messages


def test_in_features_in_another_order_are_refused_whatever_the_config_says() -> None:
    """Take g_idx as GPTQ writes it: the group of each in-feature."""
    name = "model.layers.0.mlp.down_proj.g_idx"
    in_order = torch.arange(64, dtype=torch.int32) // 32
    _require_order(name, in_order)
    _require_order(name, in_order[:0])
    _require_order(name.replace("g_idx", "scales"), torch.randn(4, 64))
    with pytest.raises(CheckpointError, match=r"another order.*with desc_act false"):
        _require_order(name, in_order[torch.randperm(64)])


def test_the_same_elements_count_once() -> None:
    made = model()
    writes = Writes(made)
    with writes:
        for name, value in writes.named([("v", torch.ones(2, 4)), ("also_v", torch.ones(2, 4))]):
            made.linear.data[4:].copy_(value)
            if name == "v":
                made.linear.data[3:].fill_(1)
    assert writes.written(made.linear) == 12
    assert writes.written_twice(made.linear) == ("v", "also_v")


@pytest.mark.parametrize("transposed", [False, True])
def test_columns_are_counted(transposed) -> None:
    """Layouts with packed rows stack their parts along columns."""
    made = model()
    writes = Writes(made)
    with writes:
        for name, _ in writes.named([("first", None), ("second", None)]):
            columns = made.linear.data[:, :1] if name == "first" else made.linear.data[:, 1:4]
            columns.t().fill_(1) if transposed else columns.copy_(torch.ones(columns.shape))
            made.experts.data[0 if name == "first" else 2].copy_(torch.ones(4, 2))
    assert writes.written(made.linear) == 24 and writes.written(made.experts) == 16
    assert writes.written_twice(made.linear) is None


def test_memory_that_was_replaced_counts_as_written() -> None:
    made = model()
    writes = Writes(made)
    with writes:
        made.linear.data = torch.ones(6, 4)
        made.scalar.fill_(2)
    assert writes.written(made.linear) == 24 and writes.written(made.scalar) == 1
    assert writes.writers(made.scalar) == set()  # no tensor of the checkpoint


CONFIG = SimpleNamespace(
    num_hidden_layers=4,
    num_kv_shared_layers=1,
    attention_k_eq_v=True,
    layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
)
QKV = "language_model.layers.{}.self_attn.qkv_proj.weight"


@pytest.mark.parametrize(
    ("parameter", "writers", "missing"),
    [
        ("language_model.norm.weight", [], ["model.language_model.norm.weight"]),
        (QKV.format(0), ["a.q_proj.weight"],
         [f"{LAYERS}.0.self_attn.k_proj.weight", f"{LAYERS}.0.self_attn.v_proj.weight"]),
        (QKV.format(1), ["a.q_proj.weight"], [f"{LAYERS}.1.self_attn.k_proj.weight"]),
        (QKV.format(3), ["a.q_proj.weight"], []),
        (QKV.format(3), [], [f"{LAYERS}.3.self_attn.q_proj.weight"]),
        ("language_model.layers.3.self_attn.k_norm.weight", [], []),
        ("language_model.layers.2.moe.experts.w2_weight", [], [f"{LAYERS}.2.experts.down_proj"]),
        ("language_model.layers.2.moe.experts.w2_weight", ["x.experts.0.down_proj.weight"],
         [f"{LAYERS}.2.experts.1.down_proj.weight"]),
        ("language_model.layers.2.moe.per_expert_scale", [],
         [f"{LAYERS}.2.router.per_expert_scale"]),
        ("centroids.weight", [], ["masked_embedding.centroids.weight"]),
    ],
)  # fmt: skip
def test_what_a_parameter_lacks_has_the_checkpoints_names(parameter, writers, missing) -> None:
    assert missing_names(parameter, writers, CONFIG, experts=2) == missing


@pytest.mark.parametrize(
    ("leaf", "need"),
    [("w13_weight_packed", "needed"), ("weight_scale_2", "needed"), ("qweight", "needed"),
     ("input_scale", "optional"), ("k_scale", "optional"), ("weight_g_idx", "optional"),
     ("from_next_year", "unknown")],
)  # fmt: skip
def test_no_format_is_refused_for_what_is_not_known_to_be_needed(leaf, need) -> None:
    assert need_of(f"language_model.layers.0.mlp.down_proj.{leaf}") == need


def what_loads(*cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what SGLang's loaders say of each case, by tests.probes.what_loads."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.probes.what_loads", json.dumps(cases)],
        env=environment(), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(cases), done.stderr[-3000:]
    return lines


@pytest.fixture
def changed(tmp_path) -> Callable[..., str]:
    """changed(checkpoint, change): a copy whose tensors are change(tensors), out of safetensors.

    SGLang reads such files through torch.load, so that only the loaded model can be checked.
    """

    def make(source: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(source, folder)
        tensors = change(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
        return str(folder)

    return make


def without(*ends: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {n: t for n, t in tensors.items() if not n.endswith(ends)}


@pytest.mark.slow
def test_every_format_loads_without_a_word(checkpoint, tmp_path) -> None:
    dense = str(checkpoint("dense"))
    assistant = str(build_assistant(Path(dense), tmp_path / "assistant"))
    ordered = str(build_assistant(Path(dense), tmp_path / "ordered", use_ordered_embeddings=True))
    cases: list[dict[str, Any]] = [
        {"path": dense, "draft": assistant},
        {"path": dense, "draft": ordered},
        {"path": str(checkpoint("dense_with_towers")), "flags": ["--enable-multimodal"]},
        {"path": str(checkpoint("dense_with_towers"))},
        *({"path": str(checkpoint(kind))} for kind in ("moe", "unified", "e2b", "causal")),
        {"path": str(checkpoint("moe")), "ranks": 2},
        {"path": str(checkpoint("e2b")), "ranks": 4},
    ]
    for kind, fmt in (("moe", "modelopt"), ("moe", "ct_w4a16"), ("e2b", "ct_w4a4")):
        quantized = quantize_checkpoint(checkpoint(kind), tmp_path / f"{kind}_{fmt}", fmt=fmt)
        cases.append({"path": str(quantized)})
    for case, found in zip(cases, what_loads(*cases), strict=True):
        assert (found["error"], found["logged"]) == ("", []), case


@pytest.mark.slow
def test_what_was_not_loaded_is_named(checkpoint, changed, tmp_path) -> None:
    dense, moe = checkpoint("dense"), checkpoint("moe")
    draft = build_assistant(dense, tmp_path / "draft")
    nvfp4 = quantize_checkpoint(dense, tmp_path / "nvfp4", fmt="modelopt")

    def renamed(tensors: dict[str, Any]) -> dict[str, Any]:
        return {
            name.replace("model.language_model", "model.text"): t for name, t in tensors.items()
        }

    def doubled(tensors: dict[str, Any]) -> dict[str, Any]:
        name = f"{LAYERS}.0.mlp.up_proj.weight"
        return tensors | {name.removeprefix("model."): tensors[name]}

    def leftover(tensors: dict[str, Any]) -> dict[str, Any]:
        return tensors | {"optimizer.step": torch.ones(1), "lm_head.weight": torch.ones(2)}

    v_proj = tuple(f"layers.{i}.self_attn.v_proj.weight" for i in (0, 1, 3, 4))
    expectations = [
        (changed(dense, renamed), {}, "first model.language_model.embed_tokens.weight"),
        (changed(dense, without(*v_proj)), {}, f"first {LAYERS}.0.self_attn.v_proj.weight"),
        (changed(dense, without("layers.5.layer_scalar")), {}, f"({LAYERS}.5.layer_scalar)"),
        (changed(moe, without("3.experts.down_proj")), {}, f"({LAYERS}.3.experts.down_proj)"),
        (changed(moe, without("layers.3.experts.down_proj")), {"ranks": 2}, ".3.experts.down_proj"),
        (changed(nvfp4, without("0.mlp.up_proj.weight_scale_2")), {},
         f"({LAYERS}.0.mlp.up_proj.weight_scale_2)"),
        (changed(dense, doubled), {}, "are the same weights of the model"),
        (str(dense), {"draft": changed(draft, without("post_projection.weight"))},
         "(post_projection.weight)"),
    ]  # fmt: skip
    passing = {"path": changed(dense, leftover)}
    *found, last = what_loads(*({"path": p, **more} for p, more, _ in expectations), passing)
    for (path, _, expected), result in zip(expectations, found, strict=True):
        assert expected in result["error"], (path, result)
    assert last["error"] == "" and len(last["logged"]) == 1
    assert "1 tensors that no part of the model took, first optimizer.step" in last["logged"][0]


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("module", [OURS, STOCK])
def test_a_server_ends_with_the_sentence(module, checkpoint, changed) -> None:
    path = changed(checkpoint("dense"), without("layers.1.mlp.up_proj.weight"))
    flags = ("--model-path", path, "--dtype", "float32", "--device", "cpu")
    env = {} if module == OURS else {"SGLANG_PLATFORM": "gemma4_cpu"}
    done = run_to_end(*flags, module=module, env=env)
    sentence = f"lacks 1 tensor that its config.json asks for ({LAYERS}.1.mlp.up_proj.weight)"
    assert done.returncode != 0 and sentence in done.stdout, done.stdout[-3000:]
    if module == OURS:
        assert done.returncode == 1
        assert done.stdout.splitlines()[-1].startswith(f"{PREFIX}the server did not start: {path}")
