# SPDX-License-Identifier: Apache-2.0
"""Check that a server on packed NVFP4 weights never unpacks one to a floating-point dtype."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints.nvfp4 import quantize_checkpoint
from tests.probes import memory_probe
from tests.probes.plugins import environment_with
from tests.serving.harness import serve
from tests.serving.parity import prompt_ids

# Few tokens at a time keep a step's results and the KV pools smaller than any weight.
FLAGS = (
    *("--dtype", "float32", "--max-total-tokens", "48", "--gemma4-swa-policy", "upstream"),
    *("--gemma4-cpu-attention", "triton", "--triton-attention-num-kv-splits", "2"),
    *("--skip-server-warmup", "--gemma4-ext-disable", "kernels_before_pools"),
)


def findings(checkpoint: Path, folder: Path, backend: str) -> list[dict[str, Any]]:
    """Return what the probe wrote while a server answered a prompt of 3 tokens with 3."""
    env = environment_with(folder / "plugin", memory_probe.__name__)
    file = folder / "findings.jsonl"
    flags = ("--model-path", str(checkpoint), *FLAGS, "--gemma4-weights", backend)
    with serve(*flags, log_dir=folder, env={**env, memory_probe.PROBE: str(file)}) as server:
        server.generate(prompt_ids(3), 3)
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["fused", "dequant"])
@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_no_weight_is_unpacked(kind, backend, checkpoint, tmp_path) -> None:
    """Include `dequant`, which unpacks weights, to show that the probe sees it."""
    path = quantize_checkpoint(checkpoint(kind), tmp_path / "nvfp4", fmt="modelopt")
    found = findings(path, tmp_path, backend)
    smallest = min(finding["elements"] for finding in found if "weight" in finding)
    largest = max((finding for finding in found if "op" in finding), key=lambda f: f["elements"])
    ran = {finding["ran"] for finding in found if "ran" in finding}
    if backend == "dequant":
        assert largest["elements"] >= smallest
        assert not ran
        return
    assert largest["elements"] < smallest, largest
    expected = {"nvfp4_linear", "nvfp4_experts"} if kind == "moe" else {"nvfp4_linear"}
    assert {name.partition("::")[2] for name in ran} == expected
