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


def test_the_sum_of_parts_takes_longer_with_more_of_them() -> None:
    card = CARDS["H100 SXM"]
    assert predict.arrival_s(card, 1, 1, 32) == 0
    one, many = (predict.arrival_s(card, 3, tokens, 32) for tokens in (1, 16))
    assert predict.HOP_S < one < many < predict.arrival_s(card, 8, 16, 32)
    # Above 16 tokens the parts are read two at a time.
    later = predict.arrival_s(card, 8, 17, 32) - predict.arrival_s(card, 8, 16, 32)
    assert later > 3 * predict.L2_CYCLES / card.clock_hz


# The mean share of the roof at one token, in percent by the model: linears, experts up, down.
LEAST = {
    "H100 SXM": (64, 66, 49),
    "H200": (54.5, 47, 39),
    "A100 80 GB": (72, 75, 56),
    "RTX 3090": (79, 79, 68),
    "A10G": (83.5, 86, 73),
}
# Linears [N, K] at which SGLang's Marlin is faster at one token by the model.
BEHIND = {
    "H100 SXM": set(),
    "H200": set(),
    "A100 80 GB": {("16384", "5376")},
    "RTX 3090": {("8192", "2816"), ("5376", "16384"), ("5376", "21504")},
    "A10G": {("8192", "2816")},
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


@pytest.mark.parametrize("card", CARDS)
def test_marlin_is_ahead_only_at_the_named_shapes(card) -> None:
    rows = [r for r in _rows() if (r["card"], r["op"], r["m"]) == (card, "linear", "1")]
    ahead = {(r["n"], r["k"]) for r in rows if int(r["roof_percent"]) < int(r["marlin_percent"])}
    assert ahead == BEHIND[card]
