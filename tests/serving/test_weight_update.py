# SPDX-License-Identifier: Apache-2.0
"""Check a server whose weights are replaced while it runs, as reinforcement learning does."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from bench.checkpoints.tiny import build
from tests.checkpoints.assistant import build_assistant
from tests.checkpoints.nvfp4 import quantize_checkpoint
from tests.serving.harness import Server, serve
from tests.serving.parity import Reference, prompt_ids
from tests.serving.test_parity import TRITON

pytestmark = [pytest.mark.server, pytest.mark.slow]


def update(server: Server, path: Path) -> requests.Response:
    body = {"model_path": str(path), "flush_cache": True}
    return requests.post(f"{server.url}/update_weights_from_disk", json=body, timeout=600)


def require_answers_of(path: Path, server: Server) -> None:
    for length, new in ((5, 8), (70, 2)):
        prompt = prompt_ids(length)
        answer = server.generate(prompt, new)
        Reference(path).compare(prompt, answer).require_fp32(length)


@pytest.mark.parametrize(
    ("kind", "flags"),
    [("dense", ()), ("e2b", ()), ("moe", ()), ("moe", TRITON)],
    ids=["dense", "e2b", "moe", "moe-triton"],
)
def test_new_weights_answer_at_once(kind, flags, checkpoint, tmp_path):
    """Include what is derived at load: the router's fold, the scaled embedding, the tied head."""
    other = build(kind, tmp_path / "other", seed=1)
    first = ("--model-path", str(checkpoint(kind)), "--dtype", "float32")
    with serve(*first, *flags, log_dir=tmp_path) as server:
        require_answers_of(checkpoint(kind), server)
        answer = update(server, other)
        assert answer.status_code == 200 and answer.json()["success"], answer.text
        require_answers_of(other, server)


def test_a_checkpoint_that_lacks_a_tensor_leaves_the_server_with_its_weights(checkpoint, tmp_path):
    lacking = build("dense", tmp_path / "lacking", seed=1)
    from safetensors.torch import load_file, save_file

    file = lacking / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if name.endswith("1.mlp.up_proj.weight")))
    save_file(tensors, file, metadata={"format": "pt"})
    path = checkpoint("dense")
    with serve("--model-path", str(path), "--dtype", "float32", log_dir=tmp_path) as server:
        answer = update(server, lacking)
        assert answer.status_code == 400 and not answer.json()["success"]
        assert "lacks 1 tensor" in answer.json()["message"], answer.text
        require_answers_of(path, server)


def test_quantized_weights_are_replaced_or_kept(checkpoint, tmp_path):
    first = quantize_checkpoint(checkpoint("dense"), tmp_path / "first", fmt="modelopt")
    plain = build("dense", tmp_path / "plain", seed=1)
    other = quantize_checkpoint(plain, tmp_path / "other", fmt="modelopt")
    with serve("--model-path", str(first), "--dtype", "float32", log_dir=tmp_path) as server:
        answer = update(server, other)
        served = other if answer.json()["success"] else first
        require_answers_of(served.with_name(served.name + "_dq"), server)


def test_an_assistant_keeps_its_weights_and_drafts_for_the_new_target(checkpoint, tmp_path):
    path = checkpoint("dense")
    other = build("dense", tmp_path / "other", seed=1)
    draft = build_assistant(path, tmp_path / "assistant")
    flags = ("--model-path", str(path), "--speculative-draft-model-path", str(draft))
    with serve(*flags, "--dtype", "float32", log_dir=tmp_path) as server:
        answer = update(server, other)
        assert answer.status_code == 200 and answer.json()["success"], answer.text
        prompt = prompt_ids(20)
        compared = Reference(other).compare(prompt, server.generate(prompt, 12))
        compared.require_fp32(20)
