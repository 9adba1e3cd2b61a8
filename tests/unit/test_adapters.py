# SPDX-License-Identifier: Apache-2.0
"""Check LoRA adapters of peft against a model before they are applied."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

from sglang_gemma4_ext.checkpoint.adapters import (
    ATTENTION,
    CONFIG,
    MLP,
    WEIGHTS,
    check_adapter,
    leaves,
    part_of,
    paths_of,
    shape_of,
)
from sglang_gemma4_ext.checkpoint.files import CheckpointError, read_headers
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.plan.geometry import from_config
from tests.checkpoints.adapters import adapted

KINDS = ("dense", "moe", "e2b", "unified", "causal")
Q_OF_0 = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def saved(checkpoint, tmp_path_factory):
    """saved(kind): a folder that peft wrote."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("adapter") / kind
            adapted(checkpoint(kind)).save_pretrained(made[kind])
        return made[kind]

    return get


@pytest.fixture
def changed(saved, tmp_path):
    """changed(tensors=.., **config): a copy of the dense model's adapter, edited."""

    def write(change=None, **config) -> Path:
        path = shutil.copytree(saved("dense"), tmp_path / "changed")
        tensors = load_file(path / WEIGHTS)
        save_file(change(tensors) if change else tensors, path / WEIGHTS)
        content = json.loads((path / CONFIG).read_text()) | config
        (path / CONFIG).write_text(json.dumps(content))
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_saves_is_accepted(kind, saved, checkpoint):
    check_adapter(str(saved(kind)), read_model_info(str(checkpoint(kind))))
    names = load_file(saved(kind) / WEIGHTS)
    assert leaves(names) == list(ATTENTION + MLP)
    assert all(part_of(name) for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_those_of_the_checkpoint(kind, checkpoint):
    """Compare with every projection that the checkpoint stores."""
    path = checkpoint(kind)
    geometry, seen = from_config(read_model_info(str(path))), 0
    for name, tensor in read_headers(path).items():
        if part := part_of(name.replace(".weight", ".lora_A.weight")):
            assert shape_of(geometry, part.layer, part.leaf) == tensor.shape, name
            seen += 1
    assert seen >= 5 * geometry.layers


def test_another_models_adapter_is_refused(saved, checkpoint):
    with pytest.raises(CheckpointError, match="the adapter belongs to another model"):
        check_adapter(str(saved("dense")), read_model_info(str(checkpoint("e2b"))))


def _renamed(old: str, new: str):
    return lambda tensors: {name.replace(old, new): tensors[name] for name in tensors}


def _with(name: str):
    return lambda tensors: {**tensors, name: tensors[Q_OF_0].clone()}


@pytest.mark.parametrize(
    ("change", "config", "sentence"),
    [
        (_renamed("self_attn", "attention"), {}, "which cannot be applied at run time"),
        (_with("base_model.model.lm_head.lora_A.weight"), {}, "changes base_model.model.lm_head"),
        (_with(Q_OF_0.replace("self_attn.q_proj", "experts.0.up_proj")), {}, "0.experts.0.up_proj"),
        (_with(Q_OF_0.replace("self_attn.q_proj", "router.proj")), {}, "0.router.proj"),
        (_renamed("language_model", "vision_tower"), {}, "changes no linear of the language model"),
        (_renamed("layers.0.", "layers.99."), {}, "the model has"),
        (None, {"r": 4}, "the model needs \\[4,"),
        (None, {"r": None}, "has no rank r"),
        (None, {"peft_type": "LOHA"}, "holds a LOHA adapter, not a LoRA"),
        (None, {"use_dora": True}, "uses use_dora of peft"),
        (None, {"rank_pattern": {"q_proj": 4}}, "uses rank_pattern of peft"),
        (None, {"bias": "all"}, "uses bias of peft"),
    ],
)
def test_what_cannot_be_applied_is_refused(change, config, sentence, changed, checkpoint):
    with pytest.raises(CheckpointError, match=sentence):
        check_adapter(str(changed(change, **config)), read_model_info(str(checkpoint("dense"))))


def test_tower_parts_do_not_refuse_an_adapter(changed, checkpoint):
    tower = (
        "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.linear.lora_A.weight"
    )
    path = changed(_with(tower))
    check_adapter(str(path), read_model_info(str(checkpoint("dense"))))
    assert part_of(tower) is None


def test_a_folder_without_an_adapter_is_refused(checkpoint, tmp_path):
    target = read_model_info(str(checkpoint("dense")))
    with pytest.raises(CheckpointError, match=r"has no adapter_config\.json"):
        check_adapter(str(tmp_path), target)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        check_adapter(str(tmp_path), target)
    check_adapter("someone/adapter", target)  # a hub name, checked when it is loaded


def test_every_spelling_of_the_flag_names_its_paths():
    line = CommandLine(["--lora-paths", "a=/x", "/y", '{"lora_path": "/z"}', "--port", "1"])
    assert paths_of(line.values("--lora-paths")) == ["/x", "/y", "/z"]
    assert paths_of(CommandLine(["--lora-paths=a=/x"]).values("--lora-paths")) == ["/x"]
    assert paths_of(CommandLine([]).values("--lora-paths")) == []
    assert paths_of({"a": "/x"}) == ["/x"]
    assert paths_of([{"lora_path": "/x"}, SimpleNamespace(lora_path="/y"), "{", 3]) == ["/x", "/y"]
    assert paths_of(None) == []
