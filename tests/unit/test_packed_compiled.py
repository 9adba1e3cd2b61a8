# SPDX-License-Identifier: Apache-2.0
"""Check the committed table of the INT4 and FP8 kernels' machine code."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from bench.kernels import packed_check
from bench.kernels.cross_compile import CAPABILITIES, MAX_SHARED_BYTES
from tests.serving.harness import environment

ROOT = Path(__file__).resolve().parents[2]


def _rows() -> list[dict[str, str]]:
    return list(csv.DictReader(packed_check.RESULT.read_text().splitlines()))


@pytest.mark.parametrize("sm", CAPABILITIES)
def test_every_kind_of_scales_is_compiled_for_linears_and_experts(sm) -> None:
    found = {(row["scales"], row["op"]) for row in _rows() if row["sm"] == str(sm)}
    for kind in packed_check.KINDS:
        ops = {op for scales, op in found if scales == kind.name}
        # The down experts have 704 in-features, which groups of 128 do not divide.
        down = {"experts_down experts_down", "experts_down grouped"} if kind.fits(704) else set()
        assert ops == {"linear", "experts_up experts_up", "experts_up grouped"} | down, kind


def test_no_kernel_spills_or_exceeds_its_gpus_shared_memory_or_lacks_the_tensor_core() -> None:
    for row in _rows():
        assert row["local"] == "0", row
        assert int(row["shared"]) <= MAX_SHARED_BYTES[int(row["sm"])], row
        assert row["tensor_core"] in ("HMMA", "HGMMA"), row


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "every", [pytest.param("1", id="all", marks=pytest.mark.slow), pytest.param("97", id="some")]
)
def test_the_committed_table_matches_the_code(every) -> None:
    """Renew it with `python -m bench.kernels.packed_check --write`."""
    command = [sys.executable, "-m", packed_check.__name__, "--every", every]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
