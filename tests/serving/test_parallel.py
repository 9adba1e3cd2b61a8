# SPDX-License-Identifier: Apache-2.0
"""Compare servers of two ranks on the CPU with transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.checkpoints.tiny import build
from tests.checkpoints.nvfp4 import quantize_checkpoint
from tests.serving.harness import serve
from tests.serving.parity import Reference, prompt_ids

pytestmark = [pytest.mark.server, pytest.mark.slow]

LENGTHS = (6, 60, 150)
TEXT = {"num_global_key_value_heads": 2}


@pytest.mark.parametrize(
    ("fmt", "flags"),
    [
        ("modelopt", ("--tp-size", "2")),
        ("ct_w4a4", ("--tp-size", "2")),
        ("modelopt", ("--dp-size", "2")),
    ],
)
def test_two_ranks(tmp_path, fmt, flags):
    source = build("moe", tmp_path / "moe", text=TEXT)
    path = quantize_checkpoint(source, tmp_path / "nvfp4", fmt=fmt, shared_scales=False)
    transformers = Reference(path.with_name("nvfp4_dq"))
    own = ("--model-path", str(path), "--dtype", "float32")
    with serve(*own, *flags, log_dir=tmp_path / "logs") as server:
        for length in LENGTHS:
            prompt = prompt_ids(length)
            found = transformers.compare(prompt, server.generate(prompt, 24))
            found.require_fp32(length)
        log = server.log
    which = "TP" if flags[0] == "--tp-size" else "DP"
    for rank in (0, 1):
        assert f" {which}{rank}] Load weight end" in log
    if which == "DP":
        assert " DP0] Prefill batch" in log and " DP1] Prefill batch" in log


def test_kv_heads_that_two_ranks_share(tmp_path: Path):
    """Serve full attention with one KV head: each rank holds a copy, as on a GPU."""
    path = build("dense", tmp_path / "dense", dtype=torch.float32)
    transformers = Reference(path)
    flags = ("--model-path", str(path), "--dtype", "float32", "--tp-size", "2")
    with serve(*flags, log_dir=tmp_path / "logs") as server:
        for length in LENGTHS:
            prompt = prompt_ids(length)
            found = transformers.compare(prompt, server.generate(prompt, 24))
            found.require_fp32(length)
