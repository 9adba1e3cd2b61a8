# SPDX-License-Identifier: Apache-2.0
"""Model the time of decode attention from compiled code: a bound, not a measurement.

    python -m bench.kernels.attention_model [--write]

A launch takes at least the larger of two times:

- `memory`: bytes of keys and values over the card's bandwidth;
- `issue`: instructions of the key loop, of all warps of the busiest multiprocessor, at one a clock
  for each of its four schedulers.

Latency, the L2, the tensor cores' own rate, the merge of splits and everything outside the loop are
left out. `blocks` is how many thread blocks a multiprocessor holds at once. With few of them
latency shows, and the bound is far. Instructions, registers and shared memory come from
bench/results/attention_compiled.csv. Bandwidth and boost clock are the vendor's.

--write writes bench/results/attention_model.csv; otherwise it is compared.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from dataclasses import asdict, dataclass, fields
from math import ceil

from bench.conditions import RESULTS
from bench.kernels.attention import BATCHES, CONTEXTS, HEADS, MAX_SPLITS, WINDOW
from bench.kernels.attention_check import read_rows

RESULT = RESULTS / "attention_model.csv"
DECODE = {
    "ours": "_decode_attention_kernel",
    "sglang": "_fwd_grouped_kernel_stage1",
}
TRITON = "3.6.0"  # beside the torch that SGLang pins for GPUs
SCHEDULERS = 4
REGISTERS = 65_536  # of a multiprocessor
# Warps and shared bytes of a multiprocessor by capability, and what a block takes beside its own.
MOST_WARPS = {80: 64, 86: 48, 89: 48, 90: 64}
SHARED = {80: 164 * 1024, 86: 100 * 1024, 89: 100 * 1024, 90: 228 * 1024}
RESERVED = 1024


@dataclass(frozen=True)
class Gpu:
    """Hold a vendor's figures: multiprocessors, boost clock in GHz, bandwidth in GB/s."""

    name: str
    sm: int
    cores: int
    ghz: float
    gb_s: int


GPUS = (
    Gpu("A100 80 GB SXM", 80, 108, 1.41, 2039),
    Gpu("RTX 3090", 86, 82, 1.695, 936),
    Gpu("RTX 4090", 89, 128, 2.52, 1008),
    Gpu("H100 SXM", 90, 132, 1.98, 3350),
)


@dataclass(frozen=True)
class Row:
    """Hold a modelled launch; microseconds are lower bounds."""

    gpu: str
    head_dim: int
    batch: int
    context: int
    by: str
    cache: str
    splits: int
    blocks: int
    memory_us: float
    issue_us: float


def splits_of(gpu: Gpu, batch: int, keys: int, heads: int, kv_heads: int) -> int:
    """Return into how many splits SGLang divides requests of equal length."""
    from math import log2

    cores = int(gpu.cores * max(log2(keys / 64), 1.0))
    grid = batch * ceil(heads / min(16, heads // kv_heads))
    most = min(ceil(cores / grid), MAX_SPLITS)
    return ceil(keys / ceil(keys / most))


def group_of(dim: int) -> int:
    """Return how many query heads read a key head in the shapes of the bench."""
    heads, kv_heads = HEADS[dim]
    return heads // kv_heads


def resident(code: dict[str, str]) -> int:
    """Return how many blocks a multiprocessor holds, by registers, shared memory and warps."""
    sm, warps = int(code["sm"]), int(code["warps"])
    # A warp's registers are allocated in units of 256.
    registers = warps * ceil(int(code["registers"]) * 32 / 256) * 256
    shared = int(code["shared"]) + RESERVED
    return min(REGISTERS // registers, SHARED[sm] // shared, MOST_WARPS[sm] // warps)


def row(gpu: Gpu, code: dict[str, str], batch: int, context: int) -> Row:
    """Model one launch of compiled code."""
    dim = int(code["head_dim"])
    heads, kv_heads = HEADS[dim]
    keys = min(context, WINDOW) if dim == 256 else context
    splits = splits_of(gpu, batch, keys, heads, kv_heads)
    each = ceil(ceil(keys / splits) / 32) * 32
    blocks = ceil(keys / each) * kv_heads * batch
    tiles = ceil(each / int(code["block_n"]))
    issued = ceil(blocks / gpu.cores) * int(code["warps"]) * tiles * int(code["loop"])
    read = 2 * batch * keys * kv_heads * dim * (1 if code["cache"] == "e4m3" else 2)
    return Row(
        gpu.name, dim, batch, context, code["by"], code["cache"], splits, resident(code),
        round(read / gpu.gb_s / 1000, 1),
        round(issued / SCHEDULERS / gpu.ghz / 1000, 1),
    )  # fmt: skip


def model() -> list[Row]:
    """Model decode of every GPU, shape, cache and kernel that compiles."""
    found = []
    for gpu in GPUS:
        codes = [
            code
            for code in read_rows()
            if (int(code["sm"]), code["triton"]) == (gpu.sm, TRITON)
            and code["kernel"] == DECODE[code["by"]]
            and int(code["group"]) == group_of(int(code["head_dim"]))
            and not code["error"]
        ]
        for dim in HEADS:
            for context in CONTEXTS if dim == 512 else (WINDOW,):
                for batch in BATCHES:
                    found += [
                        row(gpu, code, batch, context)
                        for code in codes
                        if int(code["head_dim"]) == dim
                    ]
    return found


def as_csv(rows: list[Row]) -> str:
    out = io.StringIO()
    out.write("# a model of lower bounds, not a measurement: bench/kernels/attention_model.py\n")
    writer = csv.DictWriter(out, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in rows)
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    text = as_csv(model())
    if args.write:
        RESULT.write_text(text)
        return 0
    same = RESULT.read_text() == text
    print(f"{RESULT.name} {'is as modelled' if same else 'differs: --write renews it'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
