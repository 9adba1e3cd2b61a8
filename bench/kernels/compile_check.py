# SPDX-License-Identifier: Apache-2.0
"""Compile every NVFP4 kernel configuration that can be dispatched, and read what came out.

    python -m bench.kernels.compile_check [--write] [--arch 86]

No GPU is needed: Triton compiles for a named target and ships cuobjdump. For each file of
kernels/nvfp4_configs and each shape of Gemma 4 the configuration that would be chosen is compiled
for that compute capability, with what the launcher would know of the shape's divisibility. --write
commits the table to bench/results/nvfp4_compiled.csv; without it the table is compared with that.
Its first line fingerprints what it was compiled from: Triton's version and the kernels' code.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.kernels.shapes import EXPERTS, GATED, LINEARS
from sglang_gemma4_ext.kernels import (
    _nvfp4_tile,
    nvfp4_dequant,
    nvfp4_experts,
    nvfp4_grouped,
    nvfp4_linear,
)
from sglang_gemma4_ext.kernels._nvfp4_tile import launch_arguments
from sglang_gemma4_ext.kernels.nvfp4_dispatch import CAPABILITIES, FOLDER, Config, read

RESULT = Path(__file__).resolve().parents[1] / "results" / "nvfp4_compiled.csv"
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TOKENS = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096)
_POINTERS = {
    "x_ptr": "half",
    "h_ptr": "half",
    "bias_ptr": "half",
    "packed_ptr": "*u8",
    "block_scale_ptr": "*u8",
    "scale_ptr": "*u8",
    "row_scale_ptr": "*fp32",
    "tensor_scale_ptr": "*fp32",
    "topk_weights_ptr": "*fp32",
    "weights_ptr": "*fp32",
    "topk_ids_ptr": "*i32",
    "slots_ptr": "*i32",
    "experts_ptr": "*i32",
    "padded_ptr": "*i32",
    "out_ptr": "half",
}


@dataclass(frozen=True, order=True)
class Variant:
    """One compilation: a kernel, its constants, and which integer arguments 16 divides."""

    kernel: str
    sm: int
    dtype: str
    config: Config
    constants: tuple[tuple[str, Any], ...]
    divisible: frozenset[str]


@dataclass(frozen=True)
class Compiled:
    """One row: registers a thread; bytes of spills, local and shared memory; loads by width."""

    kernel: str
    sm: int
    dtype: str
    block_m: int
    block_n: int
    block_k: int
    splits: int
    warps: int
    stages: int
    scales_align: int
    even_k: bool
    variant: str
    registers: int
    stack: int
    local: int
    local_instructions: int
    shared: int
    loads_16_byte: int
    loads_8_byte: int
    tensor_core: str


def variants(sm: int) -> Iterator[Variant]:
    """What the table of a compute capability can dispatch for Gemma 4, each once."""
    table, found = read(FOLDER / f"sm_{sm}.json"), set()
    for n, k in LINEARS:
        for m in TOKENS:
            config = table.choose("linear", m, n, k)
            for activation in (None, "gelu_tanh") if (n, k) in GATED else (None,):
                split = config.splits > 1
                constants = {
                    "ACTIVATION": None if split else activation,
                    "HAS_BIAS": False,
                    "SPLITS": config.splits,
                }
                found.add(_variant("_nvfp4_linear_kernel", sm, config, k, **constants))
    for (n13, k13), (n2, k2) in EXPERTS:
        up, down = table.choose("experts_up", 1, n13, k13), table.choose("experts_down", 1, n2, k2)
        found.add(_variant("_experts_up_kernel", sm, up, k13, ACTIVATION="gelu_tanh"))
        found.add(_variant("_experts_down_kernel", sm, down, k2))
        for m in TOKENS:
            config = table.choose("grouped", m, n13, k13)
            gated = {"SLOTS_A_ROW": 8, "ACTIVATION": "gelu_tanh"}
            plain = {"SLOTS_A_ROW": 1, "ACTIVATION": None}
            found.add(_variant("_grouped_kernel", sm, config, k13, **gated))
            found.add(_variant("_grouped_kernel", sm, config, k2, **plain))
    for block_scale in (True, False):
        found.add(_dequant_variant(sm, block_scale))
    for variant in sorted(found, key=repr):
        for dtype in ("bf16", "fp16"):
            yield Variant(
                variant.kernel, sm, dtype, variant.config, variant.constants, variant.divisible
            )


def _variant(kernel: str, sm: int, config: Config, k: int, **constants: Any) -> Variant:
    arguments = launch_arguments(config, k)
    constants |= {name: value for name, value in arguments.items() if name.isupper()}
    divisible = frozenset({"N", "columns", "x_stride"})
    return Variant(kernel, sm, "", config, tuple(sorted(constants.items())), divisible)


def _dequant_variant(sm: int, e4m3: bool) -> Variant:
    constants = {"PER_ROW": True, "E4M3": e4m3, "BLOCKS": 64, "PLAIN": False}
    config = Config(block_m=1, block_n=1, block_k=64 * 16)
    return Variant("_dequant_kernel", sm, "", config, tuple(constants.items()), frozenset())


def compiled(variant: Variant) -> Compiled:
    """Compile for the variant's target and read the binary."""
    constants = dict(variant.constants)
    kernel = triton.compile(
        _source(variant, constants),
        target=GPUTarget("cuda", variant.sm, 32),
        options={
            "num_warps": variant.config.num_warps,
            "num_stages": variant.config.num_stages,
        },
    )
    usage, instructions = _read_binary(kernel.asm["cubin"])
    widths = [o for o in instructions if re.match(r"LDG(STS)?\.", o)]
    tensor_core = {o.partition(".")[0] for o in instructions} & {"HMMA", "HGMMA"}
    return Compiled(
        kernel=variant.kernel,
        sm=variant.sm,
        dtype=variant.dtype,
        block_m=variant.config.block_m,
        block_n=variant.config.block_n,
        block_k=variant.config.block_k,
        splits=variant.config.splits,
        warps=variant.config.num_warps,
        stages=variant.config.num_stages,
        scales_align=constants.get("SCALES_ALIGN", 1),
        even_k=constants.get("EVEN_K", False),
        variant=_name(constants),
        registers=usage["REG"],
        stack=usage["STACK"],
        local=usage["LOCAL"],
        local_instructions=sum(o.startswith(("LDL", "STL")) for o in instructions),
        shared=kernel.metadata.shared,
        loads_16_byte=sum(".128" in o for o in widths),
        loads_8_byte=sum(".64" in o for o in widths),
        tensor_core="+".join(sorted(tensor_core)),
    )


def _name(constants: dict[str, Any]) -> str:
    if "E4M3" in constants:
        return "e4m3" if constants["E4M3"] else "fp32"
    return constants.get("ACTIVATION") or ""


def _source(variant: Variant, constants: dict[str, Any]) -> ASTSource:
    fn = _kernel(variant.kernel)
    if not constants.get("HAS_BIAS", True):
        constants = {**constants, "bias_ptr": None}
    signature, divisible = {}, []
    for position, name in enumerate(fn.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        kind = _POINTERS.get(name, "i32")
        if name == "out_ptr" and constants.get("SPLITS", 1) > 1:
            kind = "*fp32"
        if name == "scale_ptr" and not constants["E4M3"]:
            kind = "*fp32"
        signature[name] = f"*{variant.dtype}" if kind == "half" else kind
        if name in _POINTERS or name in variant.divisible:
            divisible.append(position)
    attributes = {(position,): [["tt.divisibility", 16]] for position in divisible}
    return ASTSource(fn, signature, constexprs=constants, attrs=attributes)


def _kernel(name: str) -> Any:
    modules = (nvfp4_linear, nvfp4_experts, nvfp4_grouped, nvfp4_dequant)
    return next(getattr(module, name) for module in modules if hasattr(module, name))


def _read_binary(cubin: bytes) -> tuple[dict[str, int], list[str]]:
    """cuobjdump's resource usage, and the names of all instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run(
                [CUOBJDUMP, flag, file.name], capture_output=True, text=True, check=True
            ).stdout
            for flag in ("-res-usage", "-sass")
        )
    pairs = re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage)
    opcode = r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]+)"
    return {name: int(value) for name, value in pairs}, re.findall(opcode, code, re.MULTILINE)


def fingerprint() -> str:
    """Triton's version, and a digest of the kernels' code without comments and host functions."""
    digest = hashlib.sha256()
    for module in (_nvfp4_tile, nvfp4_dequant, nvfp4_linear, nvfp4_experts, nvfp4_grouped):
        for node in ast.parse(Path(module.__file__).read_text()).body:
            jitted = isinstance(node, ast.FunctionDef) and node.decorator_list
            if jitted or isinstance(node, ast.Assign):
                digest.update(ast.dump(node).encode())
    return f"# triton {triton.__version__}, kernels {digest.hexdigest()[:12]}"


def as_csv(rows: list[Compiled]) -> str:
    out = io.StringIO()
    out.write(fingerprint() + "\n")
    names = [field.name for field in fields(Compiled)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    known = [10 * major + minor for major, minor in CAPABILITIES]
    parser.add_argument("--arch", type=int, choices=known, action="append", help="only this one")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth variant")
    args = parser.parse_args()
    chosen = [variant for sm in args.arch or known for variant in variants(sm)]
    rows = [compiled(variant) for variant in chosen[:: args.every]]
    if args.write:
        RESULT.write_text(as_csv(rows))
        return 0
    committed = RESULT.read_text().splitlines()
    changed = [line for line in as_csv(rows).splitlines() if line not in committed]
    if not args.arch and len(chosen) != len(committed) - 2:
        changed.append(f"{len(chosen)} variants can be dispatched, {len(committed) - 2} committed")
    print("\n".join(changed) or f"{len(rows)} rows as committed")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
