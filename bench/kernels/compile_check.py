# SPDX-License-Identifier: Apache-2.0
"""Compile every NVFP4 kernel configuration that can be dispatched, and read the machine code.

    python -m bench.kernels.compile_check [--write] [--arch 86]

No GPU is needed. The shapes are those of Gemma 4, whole and in tensor-parallel shards. Each file of
kernels/nvfp4_configs dispatches a configuration for each shape. It is compiled for that compute
capability, with the divisibility that the launcher knows.

--write writes bench/results/nvfp4_compiled.csv; otherwise the rows are compared with that file. Its
first line is a fingerprint of the sources: Triton's version and the kernels' code.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import io
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

import triton

from bench.kernels.cross_compile import CAPABILITIES, Compiled, Job, compile_all
from bench.kernels.nvfp4_jobs import MODULES, variants
from bench.kernels.steady_loop import by_pipe
from sglang_gemma4_ext.kernels import _bf16_decode, _nvfp4_tile

RESULT = Path(__file__).resolve().parents[1] / "results" / "nvfp4_compiled.csv"
# The pipes that have a column.
SHOWN = ("alu", "fma", "half", "convert", "memory")


@dataclass(frozen=True)
class Row:
    """Hold one compiled kernel: registers a thread, bytes of local and shared memory, loads.

    in_features: every K of Gemma 4's shapes that this code serves
    columns_align, bytes_align, scales_align: known divisors of the output's columns and of the
        bytes and scales of a weight's row
    slots: instructions that a weight costs in the steady loop, of all threads; then by pipe
    loop_loads: loads in that loop that are not copied ahead by cp.async
    loop_cycles: of one of its iterations, by a lone warp that waits for no memory
    """

    kernel: str
    sm: int
    dtype: str
    block_m: int
    block_n: int
    block_k: int
    split: bool
    warps: int
    stages: int
    columns_align: int
    bytes_align: int
    scales_align: int
    even_k: bool
    wgmma: bool
    variant: str
    in_features: str
    registers: int
    local: int
    shared: int
    loads_16_byte: int
    loads_8_byte: int
    tensor_core: str
    slots: str
    alu: str
    fma: str
    half: str
    convert: str
    memory: str
    loop_loads: int
    loop_cycles: int


def row(job: Job, in_features: set[int], code: Compiled) -> Row:
    """Make a table row. Raises RuntimeError if the kernel did not compile."""
    if code.error:
        raise RuntimeError(f"{job}: {code.error}")
    constants = defaultdict(lambda: 1, job.constants)
    loads = {name: count for name, count in code.opcodes.items() if name.startswith("LDG")}
    dtype = next(kind for kind in job.signature.values() if kind in ("*bf16", "*fp16"))
    names = {name.partition(".")[0] for name in code.opcodes}
    return Row(
        kernel=job.kernel.partition(":")[2],
        sm=job.capability,
        dtype=dtype.removeprefix("*"),
        block_m=constants["BLOCK_M"],
        block_n=constants["BLOCK_N"],
        block_k=constants["BLOCK_K"],
        split=constants["SPLIT"] is True,
        warps=job.num_warps,
        stages=job.num_stages,
        columns_align=16 if "N" in job.aligned else 1,
        bytes_align=constants["BYTES_ALIGN"],
        scales_align=constants["SCALES_ALIGN"],
        even_k=constants["EVEN_K"] is True,
        wgmma=constants["WGMMA"] is True,
        variant=_name(job),
        in_features=" ".join(map(str, sorted(in_features))),
        registers=code.registers,
        local=code.local_bytes,
        shared=code.shared_bytes,
        loads_16_byte=sum(count for name, count in loads.items() if ".128" in name),
        loads_8_byte=sum(count for name, count in loads.items() if ".64" in name),
        tensor_core="+".join(sorted(names & {"HMMA", "HGMMA"})),
        loop_loads=sum(n for name, n in code.steady.items() if name.startswith("LDG.")),
        loop_cycles=code.steady_cycles,
        **_slots(job, code),
    )


def _slots(job: Job, code: Compiled) -> dict[str, str]:
    """Write issue slots per weight with two decimals; empty for a kernel without a dot."""
    if not code.steady:
        return dict.fromkeys(("slots", *SHOWN), "")
    weights = job.constants["BLOCK_N"] * job.constants["BLOCK_K"]
    pipes = by_pipe(code.steady)
    counts = {"slots": pipes.total(), **{pipe: pipes[pipe] for pipe in SHOWN}}
    return {name: f"{n * 32 * job.num_warps / weights:.2f}" for name, n in counts.items()}


def _name(job: Job) -> str:
    if "E4M3" in job.constants:
        return "e4m3" if job.constants["E4M3"] else "fp32"
    if job.signature.get("y_ptr") == "*fp32":
        return "fp32"
    return str(job.constants.get("ACTIVATION") or "")


def fingerprint() -> str:
    """Name Triton's version and a digest of the kernels' code, without docstrings and host code."""
    digest = hashlib.sha256()
    for module in (_nvfp4_tile, _bf16_decode, *MODULES):
        for node in ast.parse(Path(module.__file__).read_text()).body:
            jitted = isinstance(node, ast.FunctionDef) and node.decorator_list
            if jitted and ast.get_docstring(node) is not None:
                del node.body[0]
            if jitted or isinstance(node, ast.Assign):
                digest.update(ast.dump(node).encode())
    return f"# triton {triton.__version__}, kernels {digest.hexdigest()[:12]}"


def as_csv(rows: list[Row]) -> str:
    out = io.StringIO()
    out.write(fingerprint() + "\n")
    names = [field.name for field in fields(Row)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return out.getvalue()


Variant = TypeVar("Variant")


def compiled(found: Sequence[tuple[Job, set[int]]]) -> str:
    """Compile variants, and return the table's text."""
    built = compile_all(job for job, _ in found)
    return as_csv([row(*each, code) for each, code in zip(found, built, strict=True)])


def run(
    doc: str,
    result: Path,
    variants: Callable[[int], Collection[Variant]],
    compiled: Callable[[Sequence[Variant]], str],
    head: int,
) -> int:
    """Run a command that writes a table of compiled variants or compares it with the file.

    variants: of a capability. head: lines of the text before its rows
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {result.name}")
    parser.add_argument("--arch", type=int, choices=CAPABILITIES, action="append", help="only this")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth variant")
    args = parser.parse_args()
    known = [found for sm in args.arch or CAPABILITIES for found in variants(sm)]
    text = compiled(known[:: args.every])
    if args.write:
        result.write_text(text)
        return 0
    lines = text.splitlines()
    committed = result.read_text().splitlines() if result.exists() else []
    changed = [line for line in lines if line not in committed]
    held = len(committed) - head
    if not args.arch and len(known) != held:
        changed.append(f"{len(known)} variants can be dispatched, {held} committed")
    print("\n".join(changed) or f"{len(lines) - head} rows as committed")
    return 1 if changed else 0


def main() -> int:
    return run(__doc__, RESULT, lambda sm: variants(sm).values(), compiled, head=2)


if __name__ == "__main__":
    sys.exit(main())
