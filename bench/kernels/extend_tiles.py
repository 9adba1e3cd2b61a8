# SPDX-License-Identifier: Apache-2.0
"""Time SGLang's extend attention with its own tile and with candidates, on reported call shapes.

    python -m bench.kernels.extend_tiles --out bench/results/extend_NAME.jsonl [--write-table]

It takes the 26B-A4B's heads at head_dim 256 (sliding) and 512 (full), on one GPU. A tile whose
output differs from SGLang's by more than BF16 noise has no time. A tile that Triton cannot launch
has the reason. --write-table writes the winners of both regimes to kernels/extend_tiles.json.
--toy, on a CPU with TRITON_INTERPRET=1, runs small sizes without times.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
import triton

from bench.conditions import capability, kernel_conditions
from bench.kernels.command import arguments, parsed, written
from bench.kernels.cross_compile import compile_all
from bench.kernels.extend_job import job
from bench.kernels.timing import measure
from sglang_gemma4_ext.kernels.extend_tiles import TABLE, Tile, read
from sglang_gemma4_ext.patches.model import extend_attention_tiles as patch

# Name, requests, new tokens of each, prefix of each, window (-1: none).
CALLS = (
    ("prefill long", 1, 8192, 0, -1),
    ("prefill chat", 1, 1000, 0, -1),
    ("prefill multi", 4, 1000, 0, -1),
    ("verify chat", 32, 4, 1000, 1023),
    ("verify summarization", 32, 4, 8000, 1023),
    ("verify burst", 32, 4, 64, 1023),
)
TOY = (("prefill", 1, 40, 0, -1), ("verify", 8, 4, 20, 15))
MANY = 8
# Query heads and key heads by head dimension.
HEADS = {256: (16, 8), 512: (16, 2)}
BLOCKS = ((16, 32), (16, 64), (32, 32), (32, 64), (64, 32), (64, 64))
# Largest difference over the largest magnitude: sums in another order, rounded to BF16.
LIMIT = 1e-2


def candidates(dim: int, requests: int) -> list[Tile]:
    """List every block size with 4 and 8 warps and 1 and 2 stages; shared_bytes is unknown."""
    at_least = MANY if requests >= MANY else 1
    return [
        Tile(dim, at_least, m, n, warps, stages, 0)
        for m, n in BLOCKS
        for warps in (4, 8)
        for stages in (1, 2)
    ]


class Batch:
    """Hold the tensors of a call; a prefix has slots of the pool in random order."""

    def __init__(self, dim: int, requests: int, new: int, old: int, window: int, toy: bool):
        heads, kv_heads = (2, 1) if toy else HEADS[dim]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        make = functools.partial(torch.randn, device=device, dtype=dtype)
        tokens, slots = requests * new, requests * old
        self.q = make(tokens, heads, dim)
        self.k, self.v = make(tokens, kv_heads, dim), make(tokens, kv_heads, dim)
        self.pool = make(slots + 1, kv_heads, dim), make(slots + 1, kv_heads, dim)
        self.slots = torch.randperm(slots + 1, device=device)[:slots]
        count = torch.arange(requests + 1, device=device, dtype=torch.int32)
        self.starts = count * new, count * old
        self.new, self.window = new, window

    def run(self) -> torch.Tensor:
        from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd

        out = torch.empty_like(self.q)
        extend_attention_fwd(
            self.q, self.k, self.v, out, *self.pool, *self.starts, self.slots, None, True, None,
            self.new, 1.0, 1.0, sliding_window_size=self.window,
        )  # fmt: skip
        return out


def rows(dim: int, call: tuple, tiles: list[Tile], toy: bool) -> Iterator[dict[str, Any]]:
    name, requests, new, old, window = call
    # Full-attention layers have no window.
    batch = Batch(dim, requests, new, old, window if dim == 256 else -1, toy)
    base = {"call": name, "head_dim": dim, "requests": requests, "new": new, "prefix": old}
    stock = batch.run()
    yield base | {"tile": "sglang"} | _times(batch)
    for tile in tiles:
        row = base | {"tile": asdict(tile)}
        try:
            with patch.using(tile):
                got = batch.run()
                off = ((got - stock).abs().max() / stock.abs().max()).item()
                row |= {"apart": off, "correct": off <= LIMIT}
                if row["correct"]:
                    row |= _times(batch)
        except triton.runtime.errors.OutOfResources as error:
            row["passed_over"] = str(error)
        yield row


def _times(batch: Batch) -> dict[str, float]:
    time = measure([batch.run])
    return {} if time is None else asdict(time)


def winners(found: list[dict[str, Any]]) -> list[Tile]:
    """Choose by head dimension and regime the tile with the smallest worst time over SGLang's.

    A winner ran on all of a regime's calls and its ratio is below 1; a regime may have none.
    """
    best = []
    for dim, many in ((d, m) for d in HEADS for m in (True, False)):
        regime = [r for r in found if r["head_dim"] == dim and (r["requests"] >= MANY) == many]
        stock = {r["call"]: r["median_us"] for r in regime if r["tile"] == "sglang"}
        worst: dict[Tile, dict[str, float]] = {}
        for row in regime:
            if row["tile"] != "sglang" and "median_us" in row:
                ratios = worst.setdefault(Tile(**row["tile"]), {})
                ratios[row["call"]] = row["median_us"] / stock[row["call"]]
        whole = {t: max(r.values()) for t, r in worst.items() if r.keys() == stock.keys()}
        if whole and min(whole.values()) < 1:
            best.append(min(whole, key=whole.get))
    return best


def write_table(tiles: list[Tile], measured: str, shared_bytes: dict[Tile, int]) -> None:
    """Replace this capability's row, and keep the others."""
    table = read()
    name = capability()
    chosen = tuple(replace(tile, shared_bytes=shared_bytes[tile]) for tile in tiles)
    table[name] = replace(table[name], measured=measured, tiles=chosen)
    parts = []
    for key, row in table.items():
        lines = ",\n".join(f"      {json.dumps(asdict(tile))}" for tile in row.tiles)
        parts.append(
            f'  "{key}": {{\n    "measured": {json.dumps(row.measured)},\n'
            f'    "tiles": [\n{lines}\n    ]\n  }}'
        )
    TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def compiled_bytes(tiles: list[Tile]) -> dict[Tile, int]:
    """Compile each tile for this GPU, without window and mask; return its shared memory."""
    number = int(capability().removeprefix("sm_"))
    built = compile_all(job(number, tile) for tile in tiles)
    return {tile: code.shared_bytes for tile, code in zip(tiles, built, strict=True)}


def main(argv: list[str] | None = None) -> int:
    parser = arguments(__doc__.splitlines()[0], table="kernels/extend_tiles.json")
    args = parsed(parser, argv)
    _hook()
    torch.manual_seed(0)
    made_under = kernel_conditions("bench.kernels.extend_tiles")
    timed = (
        row | made_under
        for dim in HEADS
        for call in (TOY if args.toy else CALLS)
        for row in rows(dim, call, candidates(dim, call[1])[:: 8 if args.toy else 1], args.toy)
    )
    found = written(timed, args.out)
    if args.write_table:
        tiles = winners(found)
        write_table(tiles, str(args.out), compiled_bytes(tiles))
    return 1 if any(row.get("correct") is False for row in found) else 0


def _hook() -> None:
    """Apply the hook that a tile needs; the server applies it through its registry."""
    from sglang.kernels.ops.attention import extend_attention

    name = patch.BLOCK_SIZES.rpartition(".")[2]
    original = getattr(extend_attention, name)
    setattr(extend_attention, name, functools.partial(patch._block_sizes, original))


if __name__ == "__main__":
    raise SystemExit(main())
