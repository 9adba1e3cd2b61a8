# SPDX-License-Identifier: Apache-2.0
"""Compare the tables of docs/measured.md with bench/results/; empty tables must say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import tables
from bench.conditions import RESULTS, ROOT, without_folders

SERVED = {
    "workload": "chat", "mtp": False, "output_throughput": 100.0, "machine": "a GPU",
    "versions": {"sglang": "0.5.23"}, "date": "2026-11-21", "commit": "abc", "command": "bench",
}  # fmt: skip


def test_the_page_is_up_to_date() -> None:
    assert tables.main([]) == 0, "python -m bench.tables --write"


def test_a_changed_result_or_table_is_noticed(tmp_path: Path, monkeypatch, capsys) -> None:
    page = tmp_path / "measured.md"
    page.write_text(tables.PAGE.read_text().replace(tables.NO_GPU, "1000 tok/s", 1))
    monkeypatch.setattr(tables, "PAGE", page)
    assert tables.main([]) == 1
    assert "python -m bench.tables --write" in capsys.readouterr().out
    assert tables.main(["--write"]) == 0
    assert page.read_text() == (tables.ROOT / "docs" / "measured.md").read_text()


def test_a_section_is_not_lost() -> None:
    with pytest.raises(ValueError, match="the page marks"):
        tables.rendered("<!-- bench.tables serving -->\n<!-- end -->")


def test_without_results_nothing_is_claimed(tmp_path: Path) -> None:
    for name in ("serving", "nvfp4", "router"):
        assert tables.SECTIONS[name](tmp_path) == tables.NO_GPU
    smoke = SERVED | {"side": "stock", "smoke": True}
    (tmp_path / "serving_demo.jsonl").write_text(json.dumps(smoke) + "\n")
    assert tables.serving(tmp_path) == tables.NO_GPU


def test_serving_rows_become_medians_with_spread_and_conditions(tmp_path: Path) -> None:
    rows = [
        SERVED | {"side": side, "smoke": False, "repeat": n, "output_throughput": value}
        for side, values in {"stock": (90.0, 110.0, 101.0), "extension": (80.0,)}.items()
        for n, value in enumerate(values)
    ]
    rows.append(SERVED | {"side": "stock", "smoke": False, "mtp": True, "failed": "no | memory"})
    (tmp_path / "serving_x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = tables.serving(tmp_path)
    assert "| chat | off | stock | 101 (90 to 110) |" in text
    assert "| chat | off | extension | 80 |" in text
    assert "| chat | on | stock | failed: no / memory |" in text
    for part in (
        "`bench`",
        "a GPU",
        "sglang 0.5.23",
        "2026-11-21",
        "commit abc",
        "serving_x.jsonl",
    ):
        assert part in text


def test_kernel_rows_become_ratios_and_times(tmp_path: Path) -> None:
    ratios = [
        {"op": "linear", "m": 1, "provider": "ratio", "gpu": "a GPU", "torch": "2",
         "times_of_fused": {"marlin": ratio}}
        for ratio in (2.0, 8.0)
    ]  # fmt: skip
    (tmp_path / "nvfp4_x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ratios))
    assert "| linear | 1 | 4.00 |" in tables.nvfp4(tmp_path)
    times = [
        {"op": "router", "tokens": 1, "provider": name, "median_us": us, "gpu": "a GPU"}
        for name, us in {"one launch": 3.21, "sglang": 9.0}.items()
    ]
    (tmp_path / "router_x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    assert "| 1 | 3.2 | 9.0 |" in tables.router(tmp_path)


def test_paths_are_recorded_without_one_machines_folders() -> None:
    row = {
        "command": f"x --logs /tmp/x/logs --out bench/results/a.jsonl --url http://h:1/v1 {ROOT}/a",
        "failed": "OSError: can't load '/tmp/tmp1/BF16'", "flags": ["/data/m", "--a"], "right": 1,
    }  # fmt: skip
    assert without_folders(row) == {
        "command": "x --logs logs --out bench/results/a.jsonl --url http://h:1/v1 a",
        "failed": "OSError: can't load 'BF16'", "flags": ["m", "--a"], "right": 1,
    }  # fmt: skip


def test_no_committed_row_names_such_a_folder() -> None:
    files = sorted(RESULTS.glob("*.jsonl"))
    assert files
    for file in files:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert [without_folders(row) for row in rows] == rows, file.name
