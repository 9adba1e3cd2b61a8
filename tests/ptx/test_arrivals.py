# SPDX-License-Identifier: Apache-2.0
"""Check that sums of parts within a launch have no race, and do not depend on who is last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("sm", [pytest.param(80, marks=pytest.mark.slow), 86, 90])
def test_every_order_of_blocks_gives_the_same_bits(sm) -> None:
    """Interleave blocks in six orders; each launch finds zeros, and leaves zeros."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ptx.arrivals", "--sm", str(sm)],
        env=env | {"CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["findings"] == []
    assert found["distinct"] == dict.fromkeys(("linear", "wide", "gated", "experts"), 1)
    assert found["counters_left"] == 0
    assert found["launches"] == {"linear": 1, "wide": 1, "gated": 1, "experts": 2}
