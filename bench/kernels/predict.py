# SPDX-License-Identifier: Apache-2.0
"""Predict the time of NVFP4 kernels at decode by a model. Nothing here was measured.

    python -m bench.kernels.predict [--write]

The compile table has instructions and cycles of an iteration, registers and shared memory. They
give the blocks that a multiprocessor holds and the waves of blocks. An iteration of all resident
blocks takes the longest of four times:

    latency   a lone warp's cycles, and WAIT_CYCLES for barriers and the copies of a tile
    issue     four instructions a cycle, at ISSUE of the peak
    alu       the integer pipe takes an instruction of a warp in two cycles, at ALU of the peak
    memory    the bytes of the tiles, at a multiprocessor's share of BANDWIDTH of the peak

A launch adds LAUNCH_S. A sum of parts adds HOP_S, as for Marlin below, and the time in which a
multiprocessor writes its part and reads all. The constants are assumptions. A share of the roof is
weight bytes over peak bandwidth, divided by the time.

SGLang's Marlin is modelled in the same way, from the machine code that SGLang 0.5.23 compiles for
M up to 16. Its stripes are balanced. Programs of one column add their parts one after the other,
each in HOP_S, an assumption that decides small shapes.

--write writes bench/results/nvfp4_predicted.csv; otherwise the rows are compared with that file. A
run of bench.kernels.nvfp4 on one of the cards confirms or refutes its rows.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bench.kernels.compile_check import RESULT as COMPILED
from bench.kernels.shapes import GATED_SHARDS, NAMED, TOP_K, experts
from sglang_gemma4_ext.kernels.nvfp4_dispatch import FOLDER, Config, Table, read

RESULT = COMPILED.with_name("nvfp4_predicted.csv")
NOTE = "# by the model of bench/kernels/predict.py; no GPU has run this"
WAIT_CYCLES = 225
ISSUE, ALU, BANDWIDTH = 0.9, 0.95, 0.92
LAUNCH_S, HOP_S = 1.5e-6, 0.7e-6
# Of L2: bytes that a multiprocessor reads or writes in a cycle, and the cycles of a later round.
L2_BYTES_A_CYCLE, L2_CYCLES = 64, 600
BYTES_A_WEIGHT = 9 / 16
TOKENS, EXPERT_TOKENS = (1, 16, 32, 64), (1, 4, 16)
REGISTERS, RESERVED_SHARED_BYTES = 65536, 1024
# Warps, blocks and shared bytes of a multiprocessor, by CUDA's programming guide.
LIMITS = {80: (64, 32, 164 << 10), 86: (48, 16, 100 << 10), 89: (48, 24, 100 << 10),
          90: (64, 32, 228 << 10)}  # fmt: skip


@dataclass(frozen=True)
class Card:
    """Hold a GPU: multiprocessors, clock under load, and the memory's peak bandwidth."""

    capability: int
    processors: int
    clock_hz: float
    bytes_a_s: float


CARDS = {
    "H100 SXM": Card(90, 132, 1.755e9, 3.35e12),
    "H200": Card(90, 132, 1.755e9, 4.8e12),
    "A100 80 GB": Card(80, 108, 1.41e9, 2.04e12),
    "RTX 3090": Card(86, 82, 1.70e9, 936e9),
    "A10G": Card(86, 80, 1.71e9, 600e9),
}


@dataclass(frozen=True)
class Code:
    """Hold what the model needs of a kernel.

    instructions, alu: of a warp in an iteration; cycles: of a lone warp
    weights: of a block in an iteration; resident: blocks that a multiprocessor holds
    """

    instructions: float
    alu: float
    cycles: float
    warps: int
    weights: int
    resident: int


# Counted in the machine code of SGLang 0.5.23's Marlin for sm_80 to sm_90, by nvcc 13.0.
MARLIN = Code(262, 119, 430, 8, 128 * 128, 1)
NARROW_MARLIN = Code(262, 119, 530, 4, 64 * 128, 1)


@dataclass(frozen=True)
class Row:
    """Hold a prediction: the longest of an iteration's times, and shares of the roof in percent."""

    card: str
    op: str
    n: int
    k: int
    m: int
    splits: int
    blocks_a_processor: str
    resident: int
    longest: str
    roof_percent: int
    marlin_percent: str


def code_of(card: Card, row: dict[str, str]) -> Code:
    """Read a row of the compile table, and how many of its blocks the card's processor holds."""
    warps, blocks, shared = LIMITS[card.capability]
    used = int(row["warps"])
    registers = math.ceil(int(row["registers"]) * 32 / 256) * 256 * used
    resident = min(
        blocks,
        warps // used,
        shared // (int(row["shared"]) + RESERVED_SHARED_BYTES),
        REGISTERS // registers,
    )
    weights = int(row["block_n"]) * int(row["block_k"])
    slots, alu = (float(row[name]) * weights / (32 * used) for name in ("slots", "alu"))
    return Code(slots, alu, int(row["loop_cycles"]), used, weights, resident)


def iteration(card: Card, code: Code, blocks: int) -> dict[str, float]:
    """Return the four times, in seconds, of an iteration of `blocks` on one multiprocessor."""
    warps, a_processor = blocks * code.warps, card.bytes_a_s * BANDWIDTH / card.processors
    return {
        "latency": (code.cycles + WAIT_CYCLES) / card.clock_hz,
        "issue": warps * code.instructions / (4 * ISSUE) / card.clock_hz,
        "alu": warps * code.alu * 2 / (4 * ALU) / card.clock_hz,
        "memory": blocks * code.weights * BYTES_A_WEIGHT / a_processor,
    }


def waves_s(card: Card, code: Code, blocks: int, iterations: int) -> float:
    """Return the seconds of all blocks, on the busiest multiprocessor, without the launch."""
    left, total = math.ceil(blocks / card.processors), 0.0
    while left > 0:
        total += iterations * max(iteration(card, code, min(left, code.resident)).values())
        left -= code.resident
    return total


def arrival_s(card: Card, parts: int, tokens: int, columns: int) -> float:
    """Return the seconds after the last matmul of a tile until its parts are added.

    For more than 16 tokens the parts are read two at a time, else all at once.
    """
    if parts == 1:
        return 0.0
    rounds = 1 if tokens <= 16 else math.ceil(parts / 2)
    cycles = (parts + 1) * tokens * columns * 4 / L2_BYTES_A_CYCLE + (rounds - 1) * L2_CYCLES
    return HOP_S + cycles / card.clock_hz


def marlin_s(card: Card, n: int, k: int) -> float:
    """Return the seconds of SGLang's Marlin for up to 16 tokens."""
    code, rows_k = (MARLIN, 128) if k % 128 == 0 else (NARROW_MARLIN, 64)
    a_column = math.ceil(k / rows_k)
    each = math.ceil(math.ceil(n / 128) * a_column / card.processors)
    hops = min(math.ceil(a_column / each), a_column - 1) if each < a_column else each % a_column > 0
    times = iteration(card, code, 1)
    del times["latency"]  # four stages are in flight
    busy = each * max(*times.values(), code.cycles / card.clock_hz if code.warps == 4 else 0)
    return busy + LAUNCH_S + HOP_S * hops


def rows() -> Iterator[Row]:
    """Predict every linear and expert of Gemma 4, on every card."""
    compiled = list(csv.DictReader(COMPILED.read_text().splitlines()[1:]))
    tables = {sm: read(FOLDER / f"sm_{sm}.json") for sm in LIMITS}
    for name, card in CARDS.items():
        table = tables[card.capability]
        for (n, k), m in ((shape, m) for shape in dict.fromkeys(NAMED.values()) for m in TOKENS):
            config = table.choose("linear", m, n, k, card.processors)
            marlin = marlin_s(card, n, k) if m <= 16 else None
            yield _row(compiled, name, "linear", config, (n, k, m), 1, marlin)
        yield from _experts(compiled, name, table)


def _experts(compiled: list[dict[str, str]], name: str, table: Table) -> Iterator[Row]:
    whole = experts()
    assert whole is not None
    for op, (n, k) in zip(("experts_up", "experts_down"), whole, strict=True):
        for m in EXPERT_TOKENS:
            config = table.choose(op, m, n, k)
            yield _row(compiled, name, op, config, (n, k, m), TOP_K * m, None)


def _row(
    compiled: list[dict[str, str]],
    name: str,
    op: str,
    config: Config,
    shape: tuple[int, int, int],
    copies: int,
    marlin: float | None,
) -> Row:
    """Predict one op. copies: matrices [N, K], each of which is read from memory."""
    card, (n, k, m) = CARDS[name], shape
    code = code_of(card, _compiled(compiled, card, op, config, shape))
    blocks = copies * math.ceil(n / config.block_n) * config.splits
    iterations = math.ceil(math.ceil(k / config.block_k) / config.splits)
    whole = copies * n * k * BYTES_A_WEIGHT / card.bytes_a_s
    seconds = max(waves_s(card, code, blocks, iterations), whole / BANDWIDTH) + LAUNCH_S
    parts = TOP_K if op == "experts_down" else config.splits
    seconds += arrival_s(card, parts, 1 if copies > 1 else min(m, config.block_m), config.block_n)
    together = min(code.resident, math.ceil(blocks / card.processors))
    times = iteration(card, code, together)
    return Row(
        name, op, n, k, m, config.splits, f"{blocks / card.processors:.1f}", code.resident,
        max(times, key=lambda what: times[what]), round(100 * whole / seconds),
        "" if marlin is None else f"{100 * whole / marlin:.0f}",
    )  # fmt: skip


def _compiled(
    compiled: list[dict[str, str]],
    card: Card,
    op: str,
    config: Config,
    shape: tuple[int, int, int],
) -> dict[str, str]:
    """Find the code of an op; a stacked gate and up has the activation in it."""
    n, k, _ = shape
    gated = op == "experts_up" or (op == "linear" and (n, k) in GATED_SHARDS)
    want = {
        "kernel": f"_nvfp4_{op}_kernel" if op == "linear" else f"_{op}_kernel",
        "sm": str(card.capability), "dtype": "bf16", "block_m": str(config.block_m),
        "block_n": str(config.block_n), "block_k": str(config.block_k),
        "warps": str(config.num_warps), "stages": str(config.num_stages),
        "split": str(config.splits > 1), "variant": "gelu_tanh" if gated else "",
    }  # fmt: skip
    return next(
        row
        for row in compiled
        if want.items() <= row.items() and str(k) in row["in_features"].split()
    )


def as_csv() -> str:
    out = io.StringIO()
    out.write(NOTE + "\n")
    writer = csv.DictWriter(out, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows())
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    if parser.parse_args().write:
        RESULT.write_text(as_csv())
        return 0
    same = Path(RESULT).read_text() == as_csv()
    print("as committed" if same else f"{RESULT.name} differs from the model: run with --write")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
