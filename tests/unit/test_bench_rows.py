# SPDX-License-Identifier: Apache-2.0
"""Test the schema of bench rows, on new rows and on every committed file of results."""

from __future__ import annotations

import json

import pytest

from bench.conditions import RESULTS, conditions, write
from bench.rows import Row, as_line

# Losses by step: the model card names machine and command.
CURVES = {
    "demo_training.jsonl", "demo_assistant_training.jsonl",
    "demo_tools_training.jsonl", "demo_tools_assistant_training.jsonl",
}  # fmt: skip
# Measured before rows held all conditions; to be measured again, never filled in.
OLDER = {"activation_peaks_cpu.jsonl", "kv_pressure_cpu.jsonl"}


def test_the_conditions_of_this_machine_make_a_row():
    made_under = conditions("python -m bench.x")
    row = Row.of({"seconds": 1.5, **made_under})
    assert row.measured == {"seconds": 1.5}
    assert row.conditions.command == "python -m bench.x" and row.conditions.machine
    with pytest.raises(AttributeError):
        row.measured = {}
    assert json.loads(as_line({"seconds": 1.5, **made_under})) == {"seconds": 1.5, **made_under}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"date": None}, "date of a row of results is not a text"),
        ({"versions": {}}, "versions of a row of results is not an object with packages"),
        ({"seconds": ...}, "a row of results has conditions and no values"),
        ({"machine": ..., "commit": ...}, "a row of results lacks commit, machine"),
    ],
)
def test_a_row_without_its_conditions_is_not_written(tmp_path, change, sentence):
    content = {"seconds": 1.5, **conditions("x"), **change}
    content = {name: value for name, value in content.items() if value is not ...}
    with pytest.raises(ValueError, match=sentence):
        write([content], tmp_path / "rows.jsonl")


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.jsonl")), ids=lambda file: file.name)
def test_committed_rows_have_the_schema(file):
    lines = [line for line in file.read_text().splitlines() if line]
    if file.name in CURVES | OLDER:
        with pytest.raises(ValueError, match="a row of results lacks"):
            Row.of(json.loads(lines[0]))
        return
    for line in lines:
        assert Row.of(json.loads(line)).measured
