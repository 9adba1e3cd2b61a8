# SPDX-License-Identifier: Apache-2.0
"""Recompute the bundled model's committed figures, and check that faults lower them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from sglang_gemma4_ext.demo import assistant_path, model_path
from sglang_gemma4_ext.demo.training import drafts, measure, quantized
from sglang_gemma4_ext.demo.training.card import card
from sglang_gemma4_ext.demo.training.faults import FAULTS
from sglang_gemma4_ext.demo.training.question_set import PLACES, read
from tests.checkpoints.real_tools import modelopt_dequantize
from tests.checkpoints.reference import write_reference

FIGURES = json.loads(
    (Path(__file__).parents[2] / "bench" / "results" / "demo_model.json").read_text()
)
NATS = 2e-3


@pytest.fixture(scope="module")
def demo():
    return quantized.load(model_path())


@pytest.fixture(scope="module")
def clean(demo) -> dict:
    return measure.quality(demo, 100)


def test_the_reference_is_what_transformers_loads_in_fp32(demo):
    """A text model in BF16 would round the factor of its embeddings, and move log-probabilities."""
    text = demo.config.text_config
    scale = demo.model.language_model.embed_tokens.embed_scale
    assert scale.item() == torch.tensor(text.hidden_size**0.5).item()


def test_the_100_item_figures_are_the_committed_ones(clean):
    committed = FIGURES["nvfp4_100"]
    for place in PLACES:
        assert abs(clean[place]["right"] - committed[place]["right"]) <= 1
    ours = clean["log_likelihood"]["nats_a_token"]
    assert ours == pytest.approx(committed["log_likelihood"]["nats_a_token"], abs=NATS)


def test_the_figures_are_good_enough():
    bf16, nvfp4 = FIGURES["bf16"], FIGURES["nvfp4"]
    assert bf16["questions"] == nvfp4["questions"] == 500
    assert bf16["within"]["accuracy"] >= 0.85
    assert bf16["beyond"]["accuracy"] >= 0.60
    assert bf16["languages"]["accuracy"] >= 0.85
    for place in PLACES:
        assert abs(bf16[place]["accuracy"] - nvfp4[place]["accuracy"]) <= 0.03
    for text in ("question_set", "languages", "free_text"):
        assert FIGURES["assistant"][text]["accept_length"] >= 2.0


# Sliding layers bring a question's words together, and experts hold the languages.
SHOWN_BY = {
    "wrong_window": ("within", "beyond", "languages"),
    "router_scale_ignored": ("languages",),
    "nibbles_swapped": ("within", "beyond", "languages"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_lowers_the_figures(name: str, clean):
    """Check that accuracy and log-likelihood fall beyond their 95 % intervals."""
    broken = measure.quality(FAULTS[name](model_path()), 100)
    for part in (*SHOWN_BY[name], "log_likelihood"):
        assert broken[part]["interval"][1] < clean[part]["interval"][0], (part, broken[part])


def test_the_dequantized_demo_equals_modelopts(demo, tmp_path: Path):
    """Compare every weight with what nvidia-modelopt dequantizes it to."""
    copied = tmp_path / "demo"
    copied.mkdir()
    for file in model_path().iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    theirs = transformers.Gemma4ForConditionalGeneration.from_pretrained(
        write_reference(copied, modelopt_dequantize)
    )
    expected = theirs.state_dict()
    for name, tensor in demo.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=0, rtol=1e-6, msg=name)


def test_the_assistants_drafts_are_accepted(demo):
    """Ask twelve chat questions with transformers' assisted generation.

    The answers equal those of the model without the assistant.
    """
    assistant = transformers.Gemma4AssistantForCausalLM.from_pretrained(
        assistant_path(), dtype=torch.float32
    ).eval()
    prompts = drafts.question_prompts(read(100)[:12])
    assert drafts.count(demo, assistant, prompts, 24).length >= 2.0
    alone = [drafts.complete(demo, prompt, 24) for prompt in prompts[:3]]
    assert [drafts.complete(demo, prompt, 24, assistant) for prompt in prompts[:3]] == alone


def test_the_model_card_has_the_committed_figures():
    assert (model_path() / "README.md").read_text() == card(FIGURES)
