# SPDX-License-Identifier: Apache-2.0
"""Compile the attention kernels with every tile of their table, and SGLang's at the same shapes.

    python -m bench.kernels.attention_check [--write] [--arch 86]

No GPU is needed. --write renews the rows of the chosen capabilities, or of all four, and of the
installed Triton in bench/results/attention_compiled.csv; otherwise the rows are compared with that
file. A kernel that does not compile has the reason in `error`.

The pinned Triton is another than the one beside SGLang's own torch. For that one:

    pip install --no-deps --target build/triton triton==3.6.0
    PYTHONPATH=build/triton python -m bench.kernels.attention_check --write
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import triton

from bench.kernels.attention_jobs import ours, stock
from bench.kernels.cross_compile import CAPABILITIES, Compiled, Job, compile_all

RESULT = Path(__file__).resolve().parents[1] / "results" / "attention_compiled.csv"


@dataclass(frozen=True)
class Row:
    """Hold one compiled kernel: registers a thread, bytes of local and shared memory, loads.

    by: ours or sglang. cache, new: dtype of the cached and of the new keys
    group: query heads a key head
    loads_16_byte, loads_narrower: from global memory, by their width
    load_bytes: what these read for a thread if each runs once
    instructions: all, of every kind. loop: those of the longest loop
    """

    sm: int
    by: str
    kernel: str
    head_dim: int
    cache: str
    new: str
    group: int
    mask: bool
    block_m: int
    block_n: int
    warps: int
    stages: int
    registers: int
    local: int
    shared: int
    loads_16_byte: int
    loads_narrower: int
    load_bytes: int
    instructions: int
    loop: int
    tensor_core: str
    error: str
    triton: str


def row(job: Job, code: Compiled) -> Row:
    """Make a table row."""
    constants = job.constants
    names = {name.partition(".")[0] for name in code.opcodes}
    cache = job.signature.get("K_Buffer") or job.signature.get("k_cache_ptr")
    cache = cache or job.signature["k_ptr"]
    loads: Counter[int] = Counter()
    for name, count in code.opcodes.items():
        if name.startswith("LDG"):  # also LDGSTS, a copy to shared memory
            loads[load_bytes(name)] += count
    return Row(
        sm=job.capability,
        by="ours" if job.kernel.startswith("sglang_gemma4_ext") else "sglang",
        kernel=job.kernel.partition(":")[2],
        head_dim=constants.get("HEAD_DIM") or constants["BLOCK_DMODEL"],
        cache="bf16" if cache == "*bf16" else "e4m3",
        new="e4m3" if constants.get("NEW_E4M3") is True else "bf16",
        group=_group(constants),
        mask=True in (constants.get("MASK_CACHED"), constants.get("USE_CUSTOM_MASK")),
        block_m=constants.get("BLOCK_M") or constants["BLOCK_H"],
        block_n=constants["BLOCK_N"],
        warps=job.num_warps,
        stages=job.num_stages,
        registers=code.registers,
        local=code.local_bytes,
        shared=code.shared_bytes,
        loads_16_byte=loads[16],
        loads_narrower=loads.total() - loads[16],
        load_bytes=sum(width * count for width, count in loads.items()),
        instructions=sum(code.opcodes.values()),
        loop=code.loop,
        tensor_core="+".join(sorted(names & {"HMMA", "HGMMA", "QGMMA"})),
        error=_reason(code.error),
        triton=triton.__version__,
    )


def _group(constants: Mapping[str, Any]) -> int:
    """Return how many query heads read a key head; SGLang's extend does not compile it in."""
    return constants.get("GROUP") or constants.get("kv_group_num") or 0


def load_bytes(opcode: str) -> int:
    """Return the bytes that a thread's load reads: "LDG.E.128" is 16."""
    widths = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return next((widths[part] for part in opcode.split(".") if part in widths), 4)


def _reason(error: str | None) -> str:
    if error and "fp8e4nv not supported" in error:
        return "type fp8e4nv not supported in this architecture"
    return " ".join((error or "").split())[:200]


def read_rows() -> list[dict[str, str]]:
    with RESULT.open(newline="") as file:
        return list(csv.DictReader(file))


def as_csv(rows: list[dict[str, str]]) -> str:
    out = io.StringIO()
    names = [field.name for field in fields(Row)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda each: (each["triton"], int(each["sm"]))))
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    parser.add_argument("--arch", type=int, choices=CAPABILITIES, action="append", help="only this")
    args = parser.parse_args()
    chosen = args.arch or CAPABILITIES
    jobs = [job for sm in chosen for job in (*ours(sm), *stock(sm))]
    built = zip(jobs, compile_all(jobs), strict=True)
    rows = [{k: str(v) for k, v in asdict(row(*pair)).items()} for pair in built]
    known = read_rows() if RESULT.exists() else []
    if args.write:
        here = triton.__version__
        kept = [r for r in known if int(r["sm"]) not in chosen or r["triton"] != here]
        RESULT.write_text(as_csv([*kept, *rows]))
        return 0
    changed = [each for each in rows if each not in known]
    print("\n".join(map(str, changed)) or f"{len(rows)} rows as committed")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
