# SPDX-License-Identifier: Apache-2.0
"""Compile the attention kernels with every tile of their table, and SGLang's at the same shapes.

    python -m bench.kernels.attention_check [--write] [--arch 86]

No GPU is needed. --write renews the rows of the chosen capabilities, or of all four, in
bench/results/attention_compiled.csv; otherwise the rows are compared with that file. A kernel that
does not compile has the reason in `error`.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import triton

from bench.kernels.attention_jobs import ours, stock
from bench.kernels.cross_compile import CAPABILITIES, Compiled, Job, compile_all

RESULT = Path(__file__).resolve().parents[1] / "results" / "attention_compiled.csv"


@dataclass(frozen=True)
class Row:
    """Hold one compiled kernel: registers a thread, bytes of local and shared memory, loads.

    by: ours or sglang. cache: dtype of the cached keys. instructions: all, of every kind
    """

    sm: int
    by: str
    kernel: str
    head_dim: int
    cache: str
    mask: bool
    block_m: int
    block_n: int
    warps: int
    stages: int
    registers: int
    local: int
    shared: int
    loads_16_byte: int
    instructions: int
    tensor_core: str
    error: str
    triton: str


def row(job: Job, code: Compiled) -> Row:
    """Make a table row."""
    constants = job.constants
    names = {name.partition(".")[0] for name in code.opcodes}
    cache = job.signature.get("K_Buffer") or job.signature.get("k_cache_ptr")
    cache = cache or job.signature["k_ptr"]
    wide = ("LDG.E.128", "LDGSTS.E.BYPASS.128", "LDGSTS.E.128")
    return Row(
        sm=job.capability,
        by="ours" if job.kernel.startswith("sglang_gemma4_ext") else "sglang",
        kernel=job.kernel.partition(":")[2],
        head_dim=constants.get("HEAD_DIM") or constants["BLOCK_DMODEL"],
        cache="bf16" if cache == "*bf16" else "e4m3",
        mask=constants.get("MASK_CACHED") is True,
        block_m=constants.get("BLOCK_M") or constants["BLOCK_H"],
        block_n=constants["BLOCK_N"],
        warps=job.num_warps,
        stages=job.num_stages,
        registers=code.registers,
        local=code.local_bytes,
        shared=code.shared_bytes,
        loads_16_byte=sum(n for name, n in code.opcodes.items() if name.startswith(wide)),
        instructions=sum(code.opcodes.values()),
        tensor_core="+".join(sorted(names & {"HMMA", "HGMMA", "QGMMA"})),
        error=_reason(code.error),
        triton=triton.__version__,
    )


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
    writer.writerows(sorted(rows, key=lambda each: int(each["sm"])))
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
        kept = [each for each in known if int(each["sm"]) not in chosen]
        RESULT.write_text(as_csv([*kept, *rows]))
        return 0
    changed = [each for each in rows if each not in known]
    print("\n".join(map(str, changed)) or f"{len(rows)} rows as committed")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
