# SPDX-License-Identifier: Apache-2.0
"""Check that BF16 and FP16 on the CPU reference are as close to fp32 as those of transformers."""

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
    ("kind", "dtype", "flags", "new", "holds"),
    [
        ("dense", "bfloat16", (), 32, True),
        pytest.param("dense", "bfloat16", TRITON, 4, True, marks=pytest.mark.slow),
        pytest.param("dense", "bfloat16", LEFT_OUT, 1, False, marks=pytest.mark.slow),
        pytest.param("dense", "float16", (), 32, True, marks=pytest.mark.slow),
        pytest.param("moe", "float16", (), 32, True, marks=pytest.mark.slow),
        pytest.param("dense", "float16", TRITON, 4, True, marks=pytest.mark.slow),
    ],
    ids=["torch_native", "triton", "triton-left-out", "fp16", "fp16-moe", "fp16-triton"],
)
def test_rounding_is_within_the_spread_of_transformers(
    kind, dtype, flags, new, holds, checkpoint, tmp_path: Path
) -> None:
    path = checkpoint(kind)
    exact, rounded = Reference(path), Reference(path, getattr(torch, dtype))
    served, theirs = [], []
    flags = ("--model-path", str(path), "--dtype", dtype, *flags)
    with serve(*flags, log_dir=tmp_path) as server:
        for prompt in map(prompt_ids, PROMPTS):
            answer = server.generate(prompt, new)
            expected = exact.expected(prompt, answer["output_ids"])
            served.append(served_log_probs(answer) - expected)
            theirs.append(rounded.expected(prompt, answer["output_ids"]) - expected)
    assert (_rms(served) <= SPREAD * _rms(theirs)) is holds
