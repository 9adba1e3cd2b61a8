# SPDX-License-Identifier: Apache-2.0
"""Each patch, left out: the server is wrong, or does not start. So the parity suite can fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import nvfp4
from tests.serving.harness import run_to_end, serve
from tests.serving.parity import FP32_TOLERANCE, Reference, prompt_ids
from tests.serving.test_parity import TRITON

pytestmark = pytest.mark.server

CLEARLY_WRONG = 50 * FP32_TOLERANCE


def _nvfp4(fmt: str) -> Callable[[Path, Path], Path]:
    return lambda src, out: nvfp4.quantize_checkpoint(src, out, fmt=fmt, shared_scales=False)


@pytest.mark.parametrize(
    ("patch", "kind", "flags", "prompts", "new"),
    [
        ("exact_sliding_window", "dense", TRITON, (40,), 3),
        ("router_scale", "moe", (), (20,), 4),
        # The stock backend is right until SWA slots are reused, so one request goes before.
        ("cpu_torch_attention", "dense", (), (300, 70), 40),
        ("unified_without_ple", "unified", (), (20,), 4),
    ],
)
def test_answers_are_wrong_without(
    patch, kind, flags, prompts, new, checkpoint, tmp_path: Path
) -> None:
    path = checkpoint(kind)
    reference = Reference(path)
    flags = ("--model-path", str(path), "--dtype", "float32", *flags)
    with serve(*flags, "--gemma4-ext-disable", patch, log_dir=tmp_path) as server:
        assert f"left out   {patch}" in server.log
        worst = max(
            reference.compare(ids, server.generate(ids, new)).worst
            for ids in map(prompt_ids, prompts)
        )
    assert worst > CLEARLY_WRONG or math.isinf(worst)


@pytest.mark.parametrize(
    ("patch", "kind", "quantize"),
    [
        ("causal_lm_config", "causal", None),
        ("text_only", "dense", None),
        ("cpu_softcap", "dense", None),
        ("nvfp4_modelopt", "dense", _nvfp4("modelopt")),
        ("nvfp4_compressed_tensors", "dense", _nvfp4("ct_w4a16")),
    ],
)
def test_does_not_start_without(patch, kind, quantize, checkpoint, tmp_path: Path) -> None:
    path = checkpoint(kind)
    if quantize is not None:
        path = quantize(path, tmp_path / "nvfp4")
    ended = run_to_end(
        *("--model-path", str(path), "--dtype", "float32", "--port", "0"),
        *("--gemma4-ext-disable", patch),
        cwd=tmp_path,
    )
    assert ended.returncode != 0
    assert "did not start" in ended.stdout.splitlines()[-1]
