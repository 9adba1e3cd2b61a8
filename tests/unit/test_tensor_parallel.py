# SPDX-License-Identifier: Apache-2.0
"""Compare tensor-parallel shards over two and four ranks with transformers' tokens.

Each rank runs SGLang's real runner, layers and weight loaders in its own process, joined by gloo.
The tests cover q/k/v with KV heads divided and replicated, o, gate/up, down, experts, router,
embeddings and vocabulary.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.checkpoints.tiny import build
from sglang_gemma4_ext.checkpoint.files import read_headers
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.plan.geometry import from_config
from sglang_gemma4_ext.plan.weights import from_headers
from tests.checkpoints.nvfp4 import quantize_checkpoint
from tests.serving.harness import environment
from tests.serving.parity import FP32_TOLERANCE, Reference, prompt_ids

# Norms and scalars, of which a rank holds all; a large part of a tiny model alone.
PLANNED_WITHIN = 1e-3
LENGTH, NEW = 60, 8  # longer than the window of 32


def split(path: Path, ranks: int) -> subprocess.CompletedProcess[str]:
    """Run `ranks` processes and return what each computes after prompt_ids(LENGTH)."""
    flags = (str(path), str(ranks), str(LENGTH), str(NEW))
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.probes.ranks_of_a_real_runner", *flags],
        env=environment(), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


def require_references_tokens(path: Path, ranks: int, reference: Path) -> list[dict[str, Any]]:
    done = split(path, ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == ranks and all(rank == found[0] for rank in found)
    prompt, tokens = prompt_ids(LENGTH), found[0]["tokens"]
    table = Reference(reference).log_probs(prompt, tokens)[len(prompt) - 1 : -1]
    assert table.argmax(-1).tolist() == tokens and len(tokens) == NEW
    expected = table.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    assert (torch.tensor(found[0]["log_probs"]) - expected).abs().max() < FP32_TOLERANCE
    return found


@pytest.fixture(scope="module")
def nvfp4(tmp_path_factory):
    """nvfp4(kind, format): an NVFP4 checkpoint of unequal scales; its reference ends in `_dq`."""

    def make(kind: str, fmt: str) -> Path:
        folder = tmp_path_factory.mktemp("split")
        source = build(kind, folder / kind)
        return quantize_checkpoint(source, folder / "nvfp4", fmt=fmt, shared_scales=False)

    return make


def test_nvfp4_experts_split_over_two_ranks(nvfp4):
    path = nvfp4("moe", "modelopt")
    require_references_tokens(path, 2, path.with_name("nvfp4_dq"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "ranks"),
    [("dense", 4), ("moe", 2), ("moe", 4), ("e2b", 2), ("e2b", 4), ("unified", 2), ("causal", 2)],
)
def test_bf16(checkpoint, kind, ranks):
    """Use one to four KV heads: they are divided, or replicated where ranks outnumber them."""
    path = checkpoint(kind)
    found = require_references_tokens(path, ranks, path)
    geometry = from_config(read_model_info(str(path)))
    planned = from_headers(read_headers(path), geometry, ranks).total // 2  # stored in BF16
    assert found[0]["weights"] == pytest.approx(planned, rel=PLANNED_WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fmt", "ranks"),
    [
        ("dense", "modelopt_w4a16", 2),
        ("dense", "ct_w4a16", 4),
        ("moe", "ct_w4a4", 2),
        ("moe", "modelopt", 4),
        ("moe", "ct_w4a4", 4),
        ("e2b", "modelopt", 2),
        ("e2b", "ct_w4a4", 4),
    ],
)
def test_nvfp4(nvfp4, kind, fmt, ranks):
    path = nvfp4(kind, fmt)
    require_references_tokens(path, ranks, path.with_name("nvfp4_dq"))
