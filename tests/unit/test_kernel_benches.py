# SPDX-License-Identifier: Apache-2.0
"""Check how the kernel benches turn times into table rows, on made-up times."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from bench.kernels import attention, extend_tiles, router
from sglang_gemma4_ext.kernels.extend_tiles import Tile, read


def router_times(one_launch: dict[int, float], choice: float = 1.0) -> list[dict]:
    """Let SGLang take 10 for the whole router and 1 for the choice at every token count."""
    rows = []
    for tokens, us in one_launch.items():
        for op, provider, median in (
            ("router", "one launch", us),
            ("router", "sglang", 10.0),
            ("choice", "ours", choice),
            ("choice", "sglang", 1.0),
        ):
            row = {"op": op, "provider": provider, "tokens": tokens}
            rows.append(row if median is None else row | {"median_us": median})
    return rows


@pytest.mark.parametrize(
    ("times", "up_to", "prefer"),
    [
        ({1: 4.0, 2: 5.0, 4: 9.0, 8: 12.0}, 4, "fused"),
        # A win beyond a loss does not count, and a gain of 2 % is too small.
        ({1: 4.0, 2: 9.8, 4: 5.0}, 1, "fused"),
        ({1: 10.0, 2: 5.0}, 0, "sglang"),
        # A wrong result has no time.
        ({1: None, 2: 5.0}, 0, "sglang"),
    ],
)
def test_the_router_row_follows_from_the_times(times, up_to, prefer) -> None:
    row = router.row_from(router_times(times), "results")
    assert row == {"measured": "results", "prefer": prefer, "one_launch_max_tokens": up_to}


def test_a_slower_choice_leaves_the_router_to_sglang() -> None:
    assert router.row_from(router_times({1: 4.0}, choice=1.2), "results")["prefer"] == "sglang"
    assert router.row_from(router_times({1: 4.0}, choice=1.02), "results")["prefer"] == "fused"


NARROW, WIDE = Tile(256, 8, 16, 64, 4, 2, 0), Tile(256, 8, 32, 64, 4, 2, 0)


def extend_times(times: dict[Tile, dict[str, float | None]]) -> list[dict]:
    rows = []
    for call in ("a", "b"):
        base = {"call": call, "head_dim": 256, "requests": 32}
        rows.append(base | {"tile": "sglang", "median_us": 10.0})
        for tile, by_call in times.items():
            row = base | {"tile": asdict(tile)}
            rows.append(row if by_call[call] is None else row | {"median_us": by_call[call]})
    return rows


@pytest.mark.parametrize(
    ("narrow", "wide", "expected"),
    [
        ({"a": 5.0, "b": 6.0}, {"a": 2.0, "b": 9.0}, [NARROW]),
        ({"a": 5.0, "b": None}, {"a": 2.0, "b": 9.0}, [WIDE]),
        ({"a": 5.0, "b": 10.5}, {"a": 12.0, "b": 9.0}, []),
    ],
)
def test_the_tile_with_the_best_worst_case_wins(narrow, wide, expected) -> None:
    assert extend_tiles.winners(extend_times({NARROW: narrow, WIDE: wide})) == expected


def test_a_new_row_replaces_only_the_row_of_its_gpu(tmp_path, monkeypatch) -> None:
    before, table = read(), tmp_path / "table.json"
    monkeypatch.setattr(extend_tiles, "TABLE", table)
    monkeypatch.setattr(extend_tiles, "capability", lambda: "sm_89")
    extend_tiles.write_table([NARROW], "results", {NARROW: 123})
    after = read(table)
    assert after.pop("sm_89").tiles == (replace(NARROW, shared_bytes=123),)
    before.pop("sm_89")
    assert after == before
    assert json.loads(table.read_text())["sm_89"]["measured"] == "results"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "bench", [router, extend_tiles, attention], ids=lambda bench: bench.__name__
)
def test_without_a_gpu_no_times_are_written(bench, capsys) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--write-table"])
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
