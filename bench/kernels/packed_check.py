# SPDX-License-Identifier: Apache-2.0
"""Compile the INT4 and FP8 kernels of linears and experts, and read the machine code.

    python -m bench.kernels.packed_check [--write] [--arch 86] [--every N]

No GPU is needed. Every tile of each dispatch table is compiled in BF16 for a linear of whole tiles
of K, one with a rest, and the experts of the 26B-A4B. INT4 has groups of 32, 64 and 128 or a scale
per row, with zero points, and groups of 32 without. FP8 has a scale per row, or one for 128.

--write writes bench/results/packed_compiled.csv; otherwise the rows are compared with that file.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from bench.kernels.compile_check import RESULT as NVFP4
from bench.kernels.compile_check import row, run
from bench.kernels.cross_compile import Compiled, Job, compile_all
from bench.kernels.shapes import TOP_K, experts
from sglang_gemma4_ext.kernels import _packed_experts, _packed_linear
from sglang_gemma4_ext.kernels._packed_tile import Format, Weight, launch_arguments
from sglang_gemma4_ext.kernels.fp8_format import scales_a_row
from sglang_gemma4_ext.kernels.nvfp4_dispatch import FOLDER, Config, read

RESULT = NVFP4.with_name("packed_compiled.csv")
TOKENS = (1, 16, 32, 64, 256, 1024, 4096)
# A gate and up whose K consists of whole tiles, and a down projection whose K does not.
LINEARS = ((30720, 3840), (2816, 2112))
TYPES = {
    **dict.fromkeys(("x_ptr", "out_ptr"), "*bf16"),
    **dict.fromkeys(("slots_ptr", "experts_ptr", "padded_ptr", "zero_ptr"), "*i32"),
    **dict.fromkeys(("weights_ptr",), "*fp32"),
    "packed_ptr": "*u8",
}


class Scales(NamedTuple):
    """Describe scales. group: in-features that share one, or 0 for a row; zeros: zero points"""

    fmt: Format
    group: int
    zeros: bool = False

    @property
    def name(self) -> str:
        return f"{self.fmt} {self.group or 'row'}{' zeros' * self.zeros}"

    def fits(self, k: int) -> bool:
        return self.fmt == "fp8" or not self.group or k % self.group == 0

    def weight(self, n: int, k: int) -> Weight:
        """Return tensors without data."""
        groups = k // self.group if self.group else 1
        if self.fmt == "fp8":
            groups = scales_a_row(k, self.group > 0)
        codes = torch.empty(n, k // 2 if self.fmt == "int4" else k, device="meta")
        return codes, torch.empty(n, groups, device="meta"), None


KINDS = (
    *(Scales("int4", group, True) for group in (32, 64, 128, 0)),
    Scales("int4", 32),
    Scales("fp8", 0),
    Scales("fp8", 128),
)


@dataclass(frozen=True)
class Row:
    """Hold one compiled kernel; the columns are those of `compile_check.Row`."""

    kernel: str
    sm: int
    scales: str
    op: str
    n: int
    k: int
    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    registers: int
    local: int
    shared: int
    tensor_core: str
    slots: str
    alu: str
    loop_loads: int
    loop_cycles: int


Found = tuple[str, Scales, tuple[int, int], Job]


def variants(sm: int) -> list[Found]:
    """List (op, scales, (n, k), job) of what a capability's table dispatches, each once."""
    table = read(FOLDER / f"sm_{sm}.json")
    whole = experts()
    assert whole is not None
    found: dict[str, Found] = {}
    for kind in KINDS:
        for shape, m in ((shape, m) for shape in LINEARS for m in TOKENS):
            config = table.choose("packed", m, *shape)
            job = _job(sm, kind, config, shape, _packed_linear, gated=shape == LINEARS[0])
            found.setdefault(repr(job), ("linear", kind, shape, job))
        for up, shape in zip((True, False), whole, strict=True):
            op = "experts_up" if up else "experts_down"
            for name, m in ((op, 1), *(("grouped", m) for m in TOKENS)):
                config = table.choose(name, m, *(shape if name == op else whole[0]))
                job = _job(
                    sm, kind, config, shape, _packed_experts, gated=up, sorted_slots=name != op
                )
                found.setdefault(repr(job), (f"{op} {name}", kind, shape, job))
    return [each for each in found.values() if each[1].fits(each[2][1])]


def _job(
    sm: int,
    kind: Scales,
    config: Config,
    shape: tuple[int, int],
    module: Any,
    *,
    gated: bool,
    sorted_slots: bool = False,
) -> Job:
    """Make a job. gated: rows are gate and up, with the activation."""
    name = "_packed_linear_kernel" if module is _packed_linear else "_packed_experts_kernel"
    arguments = launch_arguments(kind.fmt, config, shape[1], kind.weight(*shape))
    constants = {key: value for key, value in arguments.items() if key.isupper()}
    constants |= {"ACTIVATION": "gelu_tanh" if gated else None, "PLAIN": False}
    constants |= {} if kind.zeros else {"zero_ptr": None}
    types = TYPES | {"scale_ptr": "*bf16" if kind.fmt == "int4" else "*fp32"}
    if module is _packed_linear:
        constants |= {"bias_ptr": None}
    else:
        constants |= {"SLOTS_A_ROW": TOP_K if gated else 1}
        constants |= {} if sorted_slots else {"slots_ptr": None, "padded_ptr": None}
        types |= {} if sorted_slots or gated else {"out_ptr": "*fp32"}
    names = [arg for arg in getattr(module, name).arg_names if arg not in constants]
    return Job(
        kernel=f"{module.__name__}:{name}",
        capability=sm,
        signature={arg: types.get(arg, "i32") for arg in names},
        constants=constants,
        aligned=("N", "x_stride"),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def as_row(found: Found, code: Compiled) -> Row:
    """Make a table row. Raises RuntimeError if the kernel did not compile."""
    op, kind, (n, k), job = found
    same = asdict(row(job, {k}, code))
    own = {"scales": kind.name, "op": op, "n": n, "k": k}
    return Row(**{name: (same | own)[name] for name in Row.__dataclass_fields__})


def as_csv(rows: list[Row]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in rows)
    return out.getvalue()


def compiled(found: Sequence[Found]) -> str:
    """Compile variants, and return the table's text."""
    built = compile_all(job for *_, job in found)
    return as_csv([as_row(each, code) for each, code in zip(found, built, strict=True)])


def main() -> int:
    return run(__doc__, RESULT, variants, compiled, head=1)


if __name__ == "__main__":
    sys.exit(main())
