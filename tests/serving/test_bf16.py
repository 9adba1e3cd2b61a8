# SPDX-License-Identifier: Apache-2.0
"""Check that BF16 on the CPU reference is as close to fp32 as transformers' BF16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.serving.harness import serve
from tests.serving.parity import Reference, prompt_ids, served_log_probs
from tests.serving.test_parity import TRITON

pytestmark = pytest.mark.server

PROMPTS = (5, 31, 33, 70)
# Both errors sum the same roundings in another order. Over some hundred tokens their RMS values
# agree to a few tens of percent.
SPREAD = 1.5


def _rms(errors: list[torch.Tensor]) -> float:
    return torch.cat(errors).square().mean().sqrt().item()


LEFT_OUT = (*TRITON, "--gemma4-ext-disable", "cpu_interpreter_bf16")


@pytest.mark.parametrize(
    ("flags", "new", "holds"),
    [
        ((), 32, True),
        pytest.param(TRITON, 4, True, marks=pytest.mark.slow),
        pytest.param(LEFT_OUT, 1, False, marks=pytest.mark.slow),
    ],
    ids=["torch_native", "triton", "triton-left-out"],
)
def test_bf16_is_within_the_spread_of_transformers(
    flags, new, holds, checkpoint, tmp_path: Path
) -> None:
    path = checkpoint("dense")
    exact, rounded = Reference(path), Reference(path, torch.bfloat16)
    served, theirs = [], []
    flags = ("--model-path", str(path), "--dtype", "bfloat16", *flags)
    with serve(*flags, log_dir=tmp_path) as server:
        for prompt in map(prompt_ids, PROMPTS):
            answer = server.generate(prompt, new)
            expected = exact.expected(prompt, answer["output_ids"])
            served.append(served_log_probs(answer) - expected)
            theirs.append(rounded.expected(prompt, answer["output_ids"]) - expected)
    assert (_rms(served) <= SPREAD * _rms(theirs)) is holds
