# SPDX-License-Identifier: Apache-2.0
"""Compare the activation estimate with traces of SGLang's real layers: 5 to 50 % above."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_gemma4_ext.plan.activations import (
    SAFETY,
    Step,
    activation_bytes,
    hidden_bytes,
    layers_bytes,
    logits_bytes,
)
from sglang_gemma4_ext.plan.geometry import BUILT_IN
from sglang_gemma4_ext.plan.sizes import GIB

ROOT = Path(__file__).resolve().parents[2]
TRACED = ROOT / "bench" / "results" / "activation_peaks_cpu.jsonl"
ROWS = [json.loads(line) for line in TRACED.read_text().splitlines()]


def check(row: dict) -> None:
    from bench.activation_peaks import two_layers

    shape = two_layers(BUILT_IN[row["model"]])
    step = Step(row["tokens"], row["requests"])
    estimate = SAFETY * max(
        layers_bytes(shape, row["tokens"], step),
        hidden_bytes(shape, row["tokens"], step) + logits_bytes(shape, row["requests"], step),
    )
    assert 1.05 <= estimate / row["measured"] <= 1.5, row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']}-{row['tokens']}")
def test_the_estimate_bounds_the_committed_traces(row):
    check(row)


def test_every_model_was_traced_at_several_sizes():
    assert {row["model"] for row in ROWS} == set(BUILT_IN)
    for model in BUILT_IN:
        assert len({row["tokens"] for row in ROWS if row["model"] == model}) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(BUILT_IN))
def test_the_estimate_bounds_a_new_trace(tmp_path, model):
    file = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "bench.activation_peaks", "--model", model,
               "--tokens", "64", "512", "--json", str(file)]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, timeout=1740)
    for line in file.read_text().splitlines():
        check(json.loads(line))


def test_prompt_logprobs_add_the_logits_of_one_chunk():
    """Prompt log-probabilities of the 12B: 2048 rows of 262,144, twice in bf16 and in fp32."""
    geometry, step = BUILT_IN["12B"], Step(8192, 8)
    plain = activation_bytes(geometry, step)
    scored = activation_bytes(geometry, step, prompt_logprobs=True)
    assert scored >= 2048 * 262_144 * (2 * 2 + 2 * 4)
    assert scored > plain + 4 * GIB


def test_a_draft_multiplies_the_decode_batch():
    geometry = BUILT_IN["31B"]
    plain, drafted = (activation_bytes(geometry, Step(256, 256, drafts)) for drafts in (1, 4))
    assert 3.9 < drafted / plain < 4.1
