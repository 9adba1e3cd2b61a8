# SPDX-License-Identifier: Apache-2.0
"""Check that the shared pool runs at once what SGLang's split of equal memory retracts.

The committed figures are checked by default; the servers that produce them are slow.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from bench.kv_pressure import PROMPT, REQUESTS, SERVERS, Outcome, run

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results" / "kv_pressure_cpu.jsonl"


def check(stock: Outcome, ours: Outcome) -> None:
    assert ours.tokens == stock.tokens
    assert (ours.most_running, ours.waiting, ours.retracted) == (REQUESTS, 0, 0)
    assert ours.prefilled == REQUESTS * PROMPT
    assert stock.most_running < REQUESTS
    assert stock.waiting > 0
    assert stock.retracted > 0
    assert stock.prefilled > REQUESTS * PROMPT


def test_the_committed_figures_show_it():
    names = {field.name for field in fields(Outcome)}
    rows = {row["server"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}
    check(*(Outcome(**{n: rows[name][n] for n in names}) for name in ("stock", "ours")))


@pytest.mark.server
@pytest.mark.slow
def test_the_shared_pool_runs_more_at_once_without_retractions(checkpoint, tmp_path):
    outcomes = {name: run(checkpoint("dense"), tmp_path, name) for name in SERVERS}
    print(*outcomes.items(), sep="\n")
    check(outcomes["stock"], outcomes["ours"])
