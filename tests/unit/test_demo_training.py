# SPDX-License-Identifier: Apache-2.0
"""Compare the demo's training passes with transformers, and check its optimizer and resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sglang_gemma4_ext.demo.training import (
    architecture,
    assistant_training,
    curriculum,
    forward,
    loop,
)
from sglang_gemma4_ext.demo.training.architecture import WINDOW
from sglang_gemma4_ext.demo.training.muon import orthogonalized

RESULTS = Path(__file__).parents[2] / "bench" / "results"
LENGTH = 2 * WINDOW + 7


@pytest.fixture(scope="module")
def target():
    built = architecture.build(seed=0).eval()
    # A scale of one would hide errors, so each scale is random.
    with torch.no_grad():
        for tensor in built.parameters():
            if tensor.dim() <= 1:
                tensor.mul_(torch.rand_like(tensor) + 0.5)
    return built


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(7, 800, (2, LENGTH), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_training_forward_equals_transformers(target, ids):
    """Compare logits and shared keys and values, beyond the window."""
    text = target.model.language_model
    hidden, caches, _ = forward.hidden_states(text, ids, forward.tables(text, LENGTH))
    theirs = target(input_ids=ids, return_shared_kv_states=True)
    ours = forward.logits(text, hidden)
    assert ours.std() > 0.5
    torch.testing.assert_close(ours, theirs.logits, atol=1e-4, rtol=1e-4)
    for kind, (keys, values) in theirs.shared_kv_states.items():
        torch.testing.assert_close(caches[kind][0][:, :, -keys.shape[2] :], keys)
        torch.testing.assert_close(caches[kind][1][:, :, -values.shape[2] :], values)


@torch.no_grad()
def test_the_assistants_draft_steps_equal_transformers(target, ids):
    """Compare two steps from the last position with transformers' candidate generator."""
    text, drafter = (
        target.model.language_model,
        assistant_training.build(target.config.text_config, 0),
    )
    kinds, tables = assistant_training.masks(LENGTH, WINDOW), forward.tables(text, LENGTH)
    hidden, caches, _ = forward.hidden_states(text, ids, tables)
    embedded = target.get_input_embeddings()(ids)
    theirs = target(input_ids=ids[:, :-1], return_shared_kv_states=True)
    state, last = hidden.roll(1, 1), hidden[:, -2:-1]
    for _ in range(2):
        x = torch.cat((embedded, state), -1)
        state, ours = assistant_training.draft_step(drafter, x, caches, tables, kinds)
        reference = drafter(
            inputs_embeds=torch.cat((embedded[:, -1:], last), -1),
            position_ids=torch.tensor([[LENGTH - 1]]),
            shared_kv_states=theirs.shared_kv_states,
            attention_mask=torch.ones(2, LENGTH),
        )
        last = reference.last_hidden_state
        torch.testing.assert_close(ours[:, -1:], reference.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(state[:, -1:], last, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 16, 64), (2, 64, 16), (1, 32, 32)])
def test_muon_keeps_the_singular_vectors(shape):
    """Compare with SVD: the result is U S' V^T with S' in the quintic's band of 0.68 to 1.2."""
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vt = torch.linalg.svd(batch, full_matrices=False)
    inner = u.mT @ orthogonalized(batch) @ vt.mT
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    assert ((diagonal > 0.6) & (diagonal < 1.25)).all()
    assert (inner - torch.diag_embed(diagonal)).abs().max() < 1e-6


def test_training_resumes_where_it_stopped(tmp_path: Path, monkeypatch):
    """Compare two steps, a stop and two more with four steps: log and weights are equal bitwise."""
    monkeypatch.setattr(curriculum, "TOKENS_PER_STEP", 192)
    weights = []
    for stops in ((4,), (2, 4)):
        out = tmp_path / str(len(stops))
        out.mkdir()
        for stop in stops:
            text = architecture.build(seed=3).model.language_model
            loop.train(text, seed=3, out=out, until=stop)
        weights.append(text.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


@pytest.mark.slow
def test_the_committed_training_log_is_reproduced(tmp_path: Path):
    """Repeat the first 50 steps that were recorded when the bundled model was trained."""
    committed = json.loads((RESULTS / "demo_training.jsonl").read_text().splitlines()[0])
    text = architecture.build(seed=0).model.language_model
    loop.train(text, seed=0, out=tmp_path, until=committed["step"])
    made = json.loads((tmp_path / "training.jsonl").read_text())
    assert made.keys() == committed.keys()
    for key in made.keys() - {"seconds"}:
        assert made[key] == pytest.approx(committed[key], abs=0.02), key
