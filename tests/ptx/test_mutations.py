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
STAGES = "between the copies of two stages, into different buffers"
SIGN = "an addend of 0 instead of -0 changes only the sign of a zero"
CODES = "codes of the next row, whose scales are masked with zero"
INSIDE = "all of its bytes exist: the masked token is in the last copy of a stage"
EQUIVALENT = {
    (LINEAR, 86, "no bar.sync", 0): STAGES,
    (LINEAR, 86, "another sign mask", 0): SIGN,
    **{(LINEAR, 86, "copy of all bytes", i): INSIDE for i in (0, 5, 10)},
    (LINEAR, 90, "no bar.sync", 0): STAGES,
    (LINEAR, 90, "another sign mask", 0): SIGN,
    (LINEAR, 90, "no fence.proxy.async", 1): "the first fence follows the stores of both operands",
    (LINEAR, 90, "no wgmma.wait_group", 0): "the second one waits for both, before any use",
    **{(LINEAR, 90, "copy of all bytes", i): CODES for i in (0, 10, 20)},
    (LINEAR, 90, "unguarded store", 0): "a part of a token that does not exist, which nobody reads",
    (DOWN, 86, "no bar.sync", 0): STAGES,
    **{(DOWN, 86, "copy of all bytes", i): CODES for i in (0, 10)},
    (DOWN, 86, "unguarded load", 0): "scales of the next row, whose codes are masked with zero",
    (DOWN, 86, "unguarded store", 0): "H is a multiple of 32, so a tile of 32 columns is whole",
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
