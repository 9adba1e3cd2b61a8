# SPDX-License-Identifier: Apache-2.0
"""Check that faults in compiled kernels are detected, or are known to change nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINEAR, DOWN = "_nvfp4_linear_kernel", "_experts_down_kernel"
# (kernel, capability, change, number): why the kernel is as correct with it.
EQUIVALENT = {
    (LINEAR, 86, "no bar.sync", 0): "between the copies of two stages, into different buffers",
    (LINEAR, 90, "no bar.sync", 0): "between the copies of two stages, into different buffers",
    (LINEAR, 90, "no fence.proxy.async", 1): "the first fence follows the stores of both operands",
    (DOWN, 86, "no bar.sync", 0): "the last barrier of the loop follows every read of a buffer",
    (DOWN, 86, "no bar.sync", 1): "between the copies of two stages, into different buffers",
    (DOWN, 86, "copy of all bytes", 0): "codes of the next row, whose scales are masked with zero",
    (DOWN, 86, "unguarded load", 0): "scales of the next row, whose codes are masked with zero",
    (DOWN, 86, "unguarded store", 0): "H is a multiple of 16, so a tile of 16 columns is whole",
}


def _undetected(*options: str) -> tuple[int, set[tuple]]:
    """Return the number of mutations, and those that nothing detected."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ptx.mutations", *options],
        env=env | {"CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found["mutations"], {tuple(mutation) for mutation in found["undetected"]}


def test_every_fault_of_the_router_is_detected() -> None:
    count, undetected = _undetected("--case", "4")
    assert count >= 20
    assert not undetected


@pytest.mark.slow
def test_every_fault_is_detected_or_changes_nothing() -> None:
    count, undetected = _undetected()
    assert count >= 140
    assert undetected == EQUIVALENT.keys()
