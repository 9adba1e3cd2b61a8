# SPDX-License-Identifier: Apache-2.0
"""Check on SGLang's runner that a step's kernels have run before pools are sized."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sglang_gemma4_ext.kernels import nvfp4_dispatch
from sglang_gemma4_ext.patches.memory import kernels_before_pools
from tests.checkpoints.nvfp4 import quantize_checkpoint

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def nvfp4_experts(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("nvfp4") / "moe"
    return quantize_checkpoint(checkpoint("moe"), folder, fmt="modelopt")


def run(*args: str) -> tuple[dict[str, list[str]], str]:
    command = [sys.executable, "-m", "tests.probes.kernels_of_a_real_runner", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


OURS = {"_nvfp4_linear_kernel", "_experts_up_kernel", "_route_one_launch_kernel"}
# SGLang's attention: prefill, decode in two parts, and the kernel that gathers KV slots.
ATTENTION = {
    "_fwd_kernel", "_fwd_grouped_kernel_stage1", "_fwd_kernel_stage2",
    "create_flashinfer_kv_indices_triton",
}  # fmt: skip


def test_a_served_step_launches_only_kernels_that_have_run(nvfp4_experts):
    ran, log = run(str(nvfp4_experts))
    assert OURS | ATTENTION <= set(ran["after"]) <= set(ran["before"])
    assert "could not run before the pools" not in log
    assert " and a whole step ran" in log
    assert log.index("Kernels before pools: ") < log.index("KV Cache is allocated")
    assert log.count("KV Cache is allocated") == 2  # the full layers' and the sliding layers'


@pytest.mark.slow
def test_without_the_patch_a_served_step_launches_new_kernels(nvfp4_experts):
    ran, log = run(str(nvfp4_experts), "kernels_before_pools")
    assert ran["before"] == []
    assert set(ran["after"]) >= OURS | ATTENTION
    assert "Kernels before pools: " not in log


@pytest.mark.parametrize("chunk", [None, -1, 512, 4096])
def test_token_counts_cover_both_sides_of_each_boundary(monkeypatch, chunk):
    table = nvfp4_dispatch.read(nvfp4_dispatch.FOLDER / "sm_86.json")
    monkeypatch.setattr(nvfp4_dispatch, "table_of", lambda device: table)
    counts = kernels_before_pools.token_counts(torch.device("cuda"), chunk)
    largest = chunk if chunk and chunk > 0 else kernels_before_pools.UNCHUNKED
    assert counts[0] == 1
    assert counts[-1] == largest
    for op in ("linear", "experts_up", "experts_down", "grouped"):
        shape = (op, 2816, 2816)
        every = {table.choose(op, m, *shape[1:]) for m in range(1, largest + 1)}
        assert {table.choose(op, m, *shape[1:]) for m in counts} == every
