# SPDX-License-Identifier: Apache-2.0
"""Run the comparisons on real servers with the demo, and check the committed table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from bench.conditions import RESULTS
from bench.quality import __main__ as quality
from bench.quality.compare import difference
from bench.quality.report import bits
from bench.quality.variants import variants
from bench.serving import SMOKE_NOTE
from bench.serving import __main__ as serving
from sglang_gemma4_ext import demo

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("bench")]
CLEARLY = 0.01


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def check(rows: list[dict]) -> None:
    """Check that sound variants agree with the first asked the same way, and broken ones do not.

    Stock has no CPU path for this model, and its row must say so.
    """
    assert all(row["side"] == "stock" for row in rows if "failed" in row), rows
    for row in rows:
        if "failed" in row:
            continue
        first = next(r for r in rows if r["chat"] == row["chat"])
        found = difference(bits(first), bits(row))
        if row["broken"]:
            assert found.share < 0 and found.p < CLEARLY, (row["name"], found)
        else:
            assert found.p > CLEARLY, (row["name"], found)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_whole_table_on_100_questions(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    quality.main(["--data", "demo", "--count", "100", "--variants", "--out", str(out)])
    check(read(out))


def test_the_committed_table_is_complete_and_shows_the_broken_variants() -> None:
    rows = read(RESULTS / "quality_demo.jsonl")
    expected = {
        (v.name, chat) for v in variants() for chat in ((False, True) if v.chat else (False,))
    }
    assert {(row["name"], row["chat"]) for row in rows} == expected
    assert all(row["questions"] == 500 for row in rows)
    check(rows)


@pytest.mark.slow
def test_drafts_have_an_accept_length(tmp_path: Path) -> None:
    """Serve with and without drafts; the demo's assistant guesses few tokens of random prompts."""
    out, assistant = tmp_path / "smoke.jsonl", str(demo.assistant_path())
    argv = ["--smoke", "--repeats", "1", "--workload", "decode burst", "--sides", "extension"]
    flags = ("--model-path", str(demo.model_path()), "--device", "cpu")
    assert serving.main([*argv, "--mtp", assistant, "--out", str(out), "--", *flags]) == 0
    plain, drafted = read(out)
    assert (plain["mtp"], drafted["mtp"]) == (False, True)
    assert plain["accept_length"] is None and 1 <= drafted["accept_length"] <= 4
    assert plain["total_output_tokens"] == drafted["total_output_tokens"] == 64


@pytest.mark.slow
def test_a_smoke_run_of_the_serving_comparison(tmp_path: Path) -> None:
    """Let the extension answer; stock has no CPU path for this model and must be shown to fail."""
    out = tmp_path / "smoke.jsonl"
    flags = ("--model-path", str(demo.model_path()), "--device", "cpu")
    argv = ["--smoke", "--repeats", "1", "--workload", "chat", "--start-s", "240"]
    assert serving.main([*argv, "--out", str(out), "--", *flags]) == 1
    by_side = {row["side"]: row for row in read(out)}
    assert all(row["smoke"] for row in by_side.values())
    ours = by_side["extension"]
    assert (ours["completed"], ours["total_output_tokens"]) == (4, 32)
    for name in ("output_throughput", "median_ttft_ms", "p99_tpot_ms", "peak_memory_mib"):
        assert ours[name] > 0
    assert ours["pool_full_tokens"] > 0 and ours["retractions"] == 0
    assert "feature extractor" in by_side["stock"]["failed"]
    text = out.with_suffix(".md").read_text()
    assert SMOKE_NOTE in text and "| stock | failed:" in text
    assert Image.open(out.with_suffix(".png")).width == 1000
