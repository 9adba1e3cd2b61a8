# SPDX-License-Identifier: Apache-2.0
"""Scaled embeddings equal transformers' bit by bit, in every dtype and at every hidden size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.models.gemma4_causal import Gemma4TextScaledWordEmbedding
from sglang.srt.models.gemma4_mtp import Gemma4AssistantForCausalLM
from transformers.models.gemma4 import modeling_gemma4

from bench.checkpoints.tiny import build
from sglang_gemma4_ext.patches.model.embedding_scale import PATCH
from tests.patches.hooks import hook_of
from tests.serving.harness import environment
from tests.serving.parity import Reference, prompt_ids

# E2B, E4B, 26B-A4B, 12B, 31B; the per-layer embeddings' width.
HIDDEN = (1536, 2560, 2816, 3840, 5376)
PER_LAYER = 256
IDS = torch.arange(7)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@pytest.fixture
def theirs():
    """theirs(weight, width): transformers' scaled embedding of IDS, scaled by sqrt(width)."""

    def embed(weight: torch.Tensor, width: int) -> torch.Tensor:
        made = modeling_gemma4.Gemma4TextScaledWordEmbedding(*weight.shape, 0, width**0.5)
        made.to(weight.dtype).weight.data = weight
        return made(IDS)

    return embed


def drawn(width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(len(IDS), width, generator=torch.Generator().manual_seed(width)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_target_and_per_layer_embeddings(theirs, hidden, dtype):
    model = SimpleNamespace()
    for name, width in (("embed_tokens", hidden), ("embed_tokens_per_layer", PER_LAYER)):
        made = Gemma4TextScaledWordEmbedding(len(IDS), width, 0, width**0.5)
        made.weight.data = drawn(width, dtype)
        setattr(model, name, made)
    stock = model.embed_tokens(IDS)
    hook_of(PATCH, "after", "__init__")(None, model)
    expected = theirs(model.embed_tokens.weight.data, hidden)
    assert torch.equal(model.embed_tokens(IDS), expected)
    if dtype == torch.bfloat16:
        assert not torch.equal(stock, expected)
    per_layer = model.embed_tokens_per_layer
    assert torch.equal(per_layer(IDS), theirs(per_layer.weight.data, PER_LAYER))


def test_a_model_without_embeddings_is_left_alone():
    """A later pipeline stage, and every model without per-layer embeddings."""
    stage = SimpleNamespace(embed_tokens=torch.nn.Identity(), embed_tokens_per_layer=None)
    hook_of(PATCH, "after", "__init__")(None, stage)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_assistant_reads_the_targets_embedding_as_the_target_does(theirs, hidden, dtype):
    """SGLang's own forward, up to the projection that joins embedding and hidden state."""
    weight = drawn(hidden, dtype)
    draft = SimpleNamespace(target_embed_scale=hidden**0.5, target_embed_weight=weight)
    hook_of(PATCH, "after", "set_embed_and_head")(None, draft, weight, None)

    class Joined(Exception):
        pass

    def join(both: torch.Tensor):
        raise Joined(both)

    draft.pre_projection = join
    state = torch.zeros(len(IDS), hidden, dtype=dtype)
    batch = SimpleNamespace(spec_info=SimpleNamespace(hidden_states=state))
    with pytest.raises(Joined) as joined:
        Gemma4AssistantForCausalLM.forward(draft, IDS, None, batch)
    assert torch.equal(joined.value.args[0][:, :hidden], theirs(weight, hidden))


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["", "embedding_scale"])
def test_a_loaded_model(tmp_path: Path, left_out: str):
    """SGLang's runner in BF16, of a width whose root BF16 rounds as much as the 31B's."""
    path = build("e2b", tmp_path / "e2b", text={"hidden_size": 336})
    out = tmp_path / "embeddings.pt"
    probe = ("-m", "tests.probes.embeddings_of_a_real_runner", str(path), str(out), left_out)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *probe],
        env=environment(), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    tokens, per_layer = torch.load(out)
    model = Reference(path, torch.bfloat16).model.model.language_model
    ids = torch.arange(len(tokens))
    with torch.inference_mode():
        expected = (model.embed_tokens(ids), model.embed_tokens_per_layer(ids))
    assert torch.equal(tokens, expected[0]) is not bool(left_out)
    assert torch.equal(per_layer, expected[1]) is not bool(left_out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "least_rms", "least_changed"), [("dense", 2e-3, 0), ("moe", 2e-2, 1)]
)
def test_what_the_rounding_is_worth(tmp_path: Path, kind, least_rms, least_changed):
    """transformers' fp32 arithmetic with both scales: log-probabilities, and greedy tokens."""
    path = build(kind, tmp_path / kind, text={"hidden_size": 336})
    unrounded, rounded = Reference(path), Reference(path)
    scale = rounded.model.get_input_embeddings().embed_scale
    scale.copy_(scale.bfloat16())
    differences, changed = [], 0
    for length in (70, 300):
        ids = prompt_ids(length)
        one, other = (reference.log_probs(ids, []) for reference in (unrounded, rounded))
        differences.append((one - other).flatten())
        changed += (one.argmax(-1) != other.argmax(-1)).sum().item()
    assert torch.cat(differences).square().mean().sqrt() > least_rms
    assert changed >= least_changed
