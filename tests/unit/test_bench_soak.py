# SPDX-License-Identifier: Apache-2.0
"""Check how bench.soak tells leaks from noise and wrong answers from right ones.

The last committed run passed. The test that runs a short soak is slow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.conditions import ROOT
from bench.soak import load, memory
from bench.soak.__main__ import ERRORS, MOST_GROWTH, accept_length, faults
from bench.soak.memory import Sample, Samples

RESULTS = ROOT / "bench" / "results" / "soak_cpu.jsonl"


def series(*own: float) -> list[Sample]:
    return [Sample(at_s=float(i), resident_mib=500.0, own_mib=mib) for i, mib in enumerate(own)]


def row(samples: Samples, **changed) -> dict:
    given = {"memory": samples.growth(5), "wrong_answers": [], "log_errors": [], "tokens_left": 0}
    return given | {"requests": 1} | changed


def test_growth_is_last_fifth_less_first_fifth_after_warm_up():
    samples = Samples({"scheduler": series(10, 50, 90, 95, 99, *[100] * 5, 900, *[102] * 4)})
    found = samples.growth(5)["scheduler"]
    assert found["own"]["growth"] == pytest.approx(0.02)
    assert (found["own"]["after_warm_up_mib"], found["own"]["at_the_end_mib"]) == (100, 102)
    assert found["own"]["most_mib"] == 900
    assert found["resident"]["growth"] == 0
    assert faults(row(samples)) == []


def test_a_leak_is_a_fault():
    samples = Samples({"scheduler": series(*[100 + i / 2 for i in range(25)])})
    (said,) = faults(row(samples))
    assert said.startswith("scheduler's own memory grew by ") and "resident" not in said


def test_a_process_that_ended_is_a_fault():
    samples = Samples({"a": series(*[100] * 20), "b": series(*[100] * 12)})
    said = faults(row(samples))
    assert said == [f"b's {kind} memory was not there throughout" for kind in ("resident", "own")]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"wrong_answers": ["chat: 500"]}, "a wrong answer: chat: 500"),
        ({"log_errors": ["Traceback"]}, "in the log: Traceback"),
        ({"tokens_left": 3}, "3 KV tokens are still in use"),
        ({"requests": 0}, "no request was answered"),
    ],
)
def test_the_other_faults(changed, said):
    assert faults(row(Samples({"a": series(*[100] * 20)}), **changed)) == [said]


def test_error_lines_of_a_log_are_counted():
    for line in ("Traceback (most recent call last):", "pool memory leak detected!", "x Exception"):
        assert ERRORS.findall(f"INFO: fine\n{line}\nINFO: fine") == [line]
    assert not ERRORS.findall('INFO: "POST /generate HTTP/1.1" 400 Bad Request')
    assert not ERRORS.findall("starlette/_exception_handler.py:59: FastAPIDeprecationWarning")
    assert accept_length("Decode, accept len: 2.00, x\nDecode, accept len: 3.00") == 2.5


def test_percentiles():
    tally = load.Tally({"chat": [i / 1000 for i in range(1, 102)]}, {"chat": [0.5]})
    found = tally.percentiles()["chat"]
    assert found["requests"] == 101
    assert (found["p50_ms"], found["p90_ms"], found["p99_ms"]) == (51, 91, 100)
    assert found["first_p99_ms"] == 500


def test_memory_is_read_for_every_process_of_a_family():
    held = (
        "x = bytearray(64 << 20); x[::4096] = b'1' * len(x[::4096]); print(1, flush=True); input()"
    )
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {held!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as root:
        root.stdout.readline()
        done = threading.Event()
        threading.Timer(0.5, done.set).start()
        samples = memory.watch(root.pid, 0.1, done)
        root.communicate(b"\n")
    assert len(samples.by_process) == 2
    of_root, of_child = samples.by_process.pop("server"), *samples.by_process.values()
    assert len(of_root) >= 3
    assert 64 < of_child[-1].own_mib < 96 and of_child[-1].own_mib < of_child[-1].resident_mib
    with pytest.raises(OSError, match=r"ended|No such"):
        memory.sample(root.pid, 0)


def test_the_committed_soak_passed():
    last = json.loads(RESULTS.read_text().splitlines()[-1])
    assert last["minutes"] >= 15 and last["requests"] > 2000
    assert {"server", "sglang::scheduler", "sglang::detokenizer"} <= set(last["memory"])
    assert all(g["growth"] <= MOST_GROWTH for of in last["memory"].values() for g in of.values())
    assert set(last["latency"]) == set(load.KINDS)
    assert faults(last) == []


@pytest.mark.server
@pytest.mark.slow
def test_a_short_soak(tmp_path: Path):
    """Run a soak that is too short for memory to settle, and check everything else."""
    rows = tmp_path / "rows.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--minutes", "1", "--json", str(rows)],
        cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    row = json.loads(rows.read_text())
    assert [said for said in faults(row) if " grew " not in said] == [], done.stderr
    assert row["requests"] > 30 and row["accept_length"] > 1
