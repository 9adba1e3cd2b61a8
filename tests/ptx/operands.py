# SPDX-License-Identifier: Apache-2.0
"""Translate operands to Python expressions, and list the registers of an instruction."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from . import values
from .memory import SHARED_BASE
from .parse import SIZES, Address, Instruction, Kernel, Operand, PtxError

UNSIGNED = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}
SPECIAL = re.compile(r"%(tid|ntid|ctaid|nctaid|laneid|warpid|nwarpid|smid|clock\w*|lanemask_\w+)")
WRITES_NOTHING = ("st", "red", "bra", "ret", "exit", "bar", "barrier", "fence", "membar")
WRITES_NOTHING += ("cp", "stmatrix", "nanosleep", "call")


class Operands:
    """Provide the methods of `BlockCode` for operands.

    kernel: gives the registers' types. constants: values that do not change, `K` in the code.
    temporary: a Python name that the instruction being translated may use.
    """

    kernel: Kernel
    constants: list[Any]
    index: int

    @property
    def temporary(self) -> str:
        return f"v{self.index}"

    def constant(self, value: Any) -> str:
        self.constants.append(value)
        return f"K[{len(self.constants) - 1}]"

    def value(self, operand: Operand, kind: str) -> str:
        """Translate an operand to an array of a PTX type; BF16 as float32."""
        size = SIZES[kind]
        if isinstance(operand, tuple):
            parts = [self.value(part, f"b{8 * size // len(operand)}") for part in operand]
            return f"{'pack' if size == 4 else 'join'}({', '.join(parts)})"
        if operand in self.kernel.registers:
            text = name_of(operand)
            if SIZES[self.kernel.registers[operand]] != size:
                text = f"{text}.astype({UNSIGNED[size]})"
            return as_type(text, kind)
        if SPECIAL.match(operand):
            text = f"m.special({operand!r})"
            return as_type(text if size == 4 else f"{text}.astype({UNSIGNED[size]})", kind)
        if operand in self.kernel.shared:
            address = values.u8 if size == 8 else values.u4
            return self.constant(address(SHARED_BASE + self.kernel.shared[operand]))
        if operand in self.kernel.parameters:  # its address
            return self.constant(values.u8(self.kernel.offset(operand)))
        if operand in self.kernel.symbols:  # an address that no access may use
            return self.constant(values.u8(0))
        return self.constant(immediate(operand, kind))

    def target(self, register: str, text: str, kind: str, op: Instruction) -> list[str]:
        """Assign `text`, an array of a PTX type, to a register that may be wider."""
        if register == "_":
            return [text]
        size, have = SIZES[kind], SIZES[self.kernel.registers[register]]
        if have < size:
            raise PtxError(f"{register} is narrower than its value: {op.where()}")
        if kind not in ("pred", "bf16"):
            if kind[0] == "s" and have > size:
                text = f"({text}).astype(i{have}).view({UNSIGNED[have]})"
            else:
                if kind[0] in "sf" and not kind.endswith("x2"):
                    text = f"({text}).view({UNSIGNED[size]})"
                if have > size:
                    text = f"({text}).astype({UNSIGNED[have]})"
        name, guard = name_of(register), self.guard(op)
        return [f"{name} = np.where({guard}, {text}, {name})" if guard else f"{name} = {text}"]

    def guard(self, op: Instruction) -> str | None:
        if not op.guard:
            return None
        return f"~{name_of(op.guard)}" if op.negated else name_of(op.guard)

    def address(self, operand: Address, size: int) -> str:
        base = self.value(operand.base, f"b{8 * size}")
        if operand.base not in self.kernel.registers:
            base = f"m.full({base})"
        if not operand.offset:
            return base
        offset = self.constant(np.array(operand.offset).astype(UNSIGNED[size])[()])
        return f"({base} + {offset})"


def name_of(register: str) -> str:
    """Return a register's Python name, unlike any of `values`: nvcc has registers named %f4."""
    return "r_" + re.sub(r"\W", "_", register.removeprefix("%"))


def as_type(text: str, kind: str) -> str:
    """View unsigned bits as another type of their width."""
    if kind == "bf16":
        return f"f4_of_bf2({text})"
    letter = {"s": "i", "f": "f"}.get(kind[0])
    if letter is None or kind.endswith("x2"):
        return text
    return f"{text}.view({letter}{SIZES[kind]})"


def immediate(text: str, kind: str) -> np.generic:
    """Parse a literal to a numpy scalar of a PTX type; integers of any sign stand for bits."""
    size = SIZES[kind]
    if kind == "pred":
        if text in ("true", "false"):
            return np.bool_(text == "true")
        return np.bool_(int(text.removesuffix("U"), 0) != 0)
    is_float = text[:2].lower() in ("0f", "0d")
    bits = int(text[2:], 16) if is_float else int(text.removesuffix("U"), 0)
    raw = np.array(bits % (1 << 8 * size), dtype="u8").astype(UNSIGNED[size])
    if kind == "bf16":
        return values.f4_of_bf2(raw)[()]
    letter = {"s": "i", "f": "f"}.get(kind[0], "u")
    return (raw if kind.endswith("x2") else raw.view(f"{letter}{size}"))[()]


def uses(op: Instruction) -> tuple[list[str], list[str]]:
    """List the registers that an instruction reads and writes, without its guard."""
    base = op.parts[0]
    starts_nothing = base == "wgmma" and "mma_async" not in op.parts
    if base in WRITES_NOTHING or starts_nothing or not op.operands:
        return [r for operand in op.operands for r in _flat(operand)], []
    targets = [r for r in _flat(op.operands[0]) if r != "_"]
    sources = [r for operand in op.operands[1:] for r in _flat(operand)]
    if base == "wgmma" and op.operands[3] not in ("0", "false"):
        sources += targets  # otherwise the accumulators start at zero
    return sources, targets


def _flat(operand: Operand) -> list[str]:
    if isinstance(operand, Address):
        return [operand.base]
    return list(operand) if isinstance(operand, tuple) else operand.split("|")
