# SPDX-License-Identifier: Apache-2.0
"""Check the model of the NVFP4 kernels' time, its committed table, and the targets by the model."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from bench.kernels import predict
from bench.kernels.predict import CARDS, Code

CODE = Code(instructions=360, alu=95, cycles=300, warps=2, weights=32 * 256, resident=8)


def _rows() -> list[dict[str, str]]:
    return list(csv.DictReader(predict.RESULT.read_text().splitlines()[1:]))


def test_the_committed_table_is_the_models() -> None:
    """Renew it with `python -m bench.kernels.predict --write`."""
    assert predict.RESULT.read_text() == predict.as_csv()
    assert "no GPU has run this" in predict.RESULT.read_text().splitlines()[0]


def test_an_iteration_takes_its_four_times() -> None:
    card = CARDS["H100 SXM"]
    times = predict.iteration(card, CODE, 4)
    clocks = {what: time * card.clock_hz for what, time in times.items()}
    assert clocks["latency"] == pytest.approx(300 + predict.WAIT_CYCLES)
    assert clocks["issue"] == pytest.approx(8 * 360 / 4 / 0.9)
    assert clocks["alu"] == pytest.approx(8 * 95 * 2 / 4 / 0.95)
    assert times["memory"] == pytest.approx(4 * 4608 * 132 / (3.35e12 * 0.92))


def test_blocks_beyond_what_is_resident_are_a_wave_of_their_own() -> None:
    card = CARDS["H100 SXM"]
    full = predict.waves_s(card, CODE, 8 * 132, 10)
    assert predict.waves_s(card, CODE, 8 * 132 - 100, 10) == full
    assert predict.waves_s(card, CODE, 9 * 132, 10) > full
    assert predict.waves_s(card, replace(CODE, resident=9), 9 * 132, 10) < 2 * full


def test_registers_and_shared_memory_limit_the_resident_blocks() -> None:
    row = {"warps": "2", "block_n": "32", "block_k": "256", "slots": "4", "alu": "2",
           "loop_cycles": "9", "registers": "128", "shared": "1024"}  # fmt: skip
    resident = {
        (registers, shared, card): predict.code_of(
            CARDS[card], row | {"registers": registers, "shared": shared}
        ).resident
        for registers in ("32", "128")
        for shared in ("1024", "32768")
        for card in ("H100 SXM", "A10G")
    }
    assert resident["32", "1024", "H100 SXM"] == 32
    assert resident["32", "1024", "A10G"] == 16
    assert resident["128", "1024", "H100 SXM"] == 8
    assert resident["32", "32768", "A10G"] == 3


# The mean share of the roof at one token, in percent by the model: linears, experts up, down.
LEAST = {
    "H100 SXM": (57, 66, 39),
    "H200": (42, 50, 28),
    "A100 80 GB": (65, 66, 49),
    "RTX 3090": (74, 74, 63),
    "A10G": (80, 78, 70),
}


@pytest.mark.parametrize("card", CARDS)
def test_the_prediction_does_not_get_worse(card) -> None:
    for op, least in zip(("linear", "experts_up", "experts_down"), LEAST[card], strict=True):
        shares = [
            int(row["roof_percent"])
            for row in _rows()
            if (row["card"], row["op"], row["m"]) == (card, op, "1")
        ]
        assert sum(shares) / len(shares) >= least
