# SPDX-License-Identifier: Apache-2.0
"""Translate arithmetic instructions to Python expressions over arrays."""

from __future__ import annotations

import numpy as np

from . import values
from .operands import UNSIGNED, Operands, immediate, name_of
from .parse import SIZES, Instruction, Operand, PtxError

# Modes that an arithmetic instruction may have between its name and its type.
MODES = {"lo", "hi", "wide", "rn", "ftz", "approx", "full", "NaN", "l", "r", "wrap", "clamp"}
FLOATS = {"f16": "f2", "bf16": "f4", "f32": "f4", "f64": "f8"}
SIGNS = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
COMPARE |= {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
# Only of float32; a GPU's own results differ from numpy's in the last bits.
SPECIAL_FUNCTIONS = {
    "ex2": "np.exp2({})",
    "lg2": "np.log2({})",
    "rcp": "f4(1) / {}",
    "rsqrt": "f4(1) / np.sqrt({})",
    "sqrt": "np.sqrt({})",
    "tanh": "np.tanh({})",
    "sin": "np.sin({})",
    "cos": "np.cos({})",
}


class Arithmetic(Operands):
    """Provide the methods of `BlockCode` for arithmetic.

    A method `_<name>` returns the lines of an instruction with rules of its own. The others are
    expressions of one type.
    """

    def arithmetic(self, op: Instruction) -> list[str]:
        """Translate an instruction without a method. Raises PtxError on an unknown one."""
        kind = op.parts[-1]
        self._require_modes(op, MODES)
        if "ftz" in op.parts and kind != "f32":
            raise PtxError(f"unknown mode: {op.where()}")
        text = self._expression(op, kind)
        if "ftz" in op.parts:
            text = f"flush({text})"
        return self.target(op.operands[0], text, kind, op)

    def _require_modes(self, op: Instruction, known: set[str]) -> None:
        if unknown := set(op.parts[1:-1]) - known:
            raise PtxError(f"unknown mode {sorted(unknown)}: {op.where()}")

    def _expression(self, op: Instruction, kind: str) -> str:
        if kind not in SIZES or (kind == "pred" and op.parts[0] not in ("and", "or", "xor", "not")):
            raise PtxError(f"unknown type: {op.where()}")
        if kind.endswith("x2"):
            return self._packed(op, kind)
        arguments = [self.value(o, kind) for o in op.operands[1:]]
        if kind in FLOATS:
            if "ftz" in op.parts:
                arguments = [f"flush({text})" for text in arguments]
            return self._float(op, kind, arguments)
        return self._integer(op, kind, arguments)

    def _float(self, op: Instruction, kind: str, arguments: list[str]) -> str:
        base, fma_of = op.parts[0], {"f16": "f2", "bf16": "bf2", "f32": "f4"}
        if base in ("mad", "fma") and kind in fma_of:
            text = f"fma_{fma_of[kind]}({', '.join(arguments)})"
            return text if kind == "bf16" else f"{text}.view({FLOATS[kind]})"
        if base in ("add", "sub", "mul"):
            text = f"{arguments[0]} {SIGNS[base]} {arguments[1]}"
        elif base == "div" and kind in ("f32", "f64"):
            text = f"{arguments[0]} / {arguments[1]}"
        elif base in ("min", "max"):
            text = f"{base}imum({arguments[0]}, {arguments[1]}, {'NaN' in op.parts})"
        elif base == "neg":
            text = f"-{arguments[0]}"
        elif base == "abs":
            text = f"np.abs({arguments[0]})"
        elif base in SPECIAL_FUNCTIONS and kind == "f32":
            text = SPECIAL_FUNCTIONS[base].format(arguments[0])
        else:
            raise PtxError(f"unknown instruction {op.where()}")
        return f"bf2_of(({text}).astype(f4))" if kind == "bf16" else text

    def _integer(self, op: Instruction, kind: str, arguments: list[str]) -> str:
        base = op.parts[0]
        if base in ("add", "sub", "and", "or", "xor"):
            return f"{arguments[0]} {SIGNS[base]} {arguments[1]}"
        if base in ("div", "rem"):
            name = "divide" if base == "div" else "remainder"
            return f"{name}({arguments[0]}, {arguments[1]})"
        if base in ("min", "max"):
            return f"np.{base}imum({arguments[0]}, {arguments[1]})"
        if base in ("not", "neg"):
            return f"{'~' if base == 'not' else '-'}{arguments[0]}"
        if base == "abs":
            return f"np.abs({arguments[0]})"
        if base in ("popc", "clz"):
            return f"{base}({arguments[0]})"
        return self._bits(op, kind)

    def _bits(self, op: Instruction, kind: str) -> str:
        """Translate bit fields, shifts of two words and three-input logic."""
        base, size = op.parts[0], SIZES[kind]
        if size != 4:
            raise PtxError(f"unknown instruction {op.where()}")
        a, b = (self.value(o, "b32") for o in op.operands[1:3])
        rest = [self.value(o, "u32") for o in op.operands[3:]]
        if base == "bfe":
            start = self.value(op.operands[2], "u32")
            text = f"bfe({a}, {start}, {rest[0]}, {kind[0] == 's'})"
            return f"{text}.view(i4)" if kind[0] == "s" else text
        if base == "bfi":
            return f"bfi({a}, {b}, {rest[0]}, {rest[1]})"
        if base == "lop3":
            return f"lop3({a}, {b}, {rest[0]}, {int(op.operands[4], 0)})"
        if base == "shf" and op.parts[1] in ("l", "r") and op.parts[2] in ("wrap", "clamp"):
            return f"funnel({a}, {b}, {rest[0]}, {op.parts[1] == 'l'}, {op.parts[2] == 'wrap'})"
        raise PtxError(f"unknown instruction {op.where()}")

    def _packed(self, op: Instruction, kind: str) -> str:
        """Translate arithmetic on two FP16 or BF16 in 32 bits, one half after the other."""
        base, one = op.parts[0], kind.removesuffix("x2")
        self._require_modes(op, {"rn"})
        if base not in ("add", "sub", "mul", "fma"):
            raise PtxError(f"unknown instruction {op.where()}")
        halves = []
        for shift in (0, 16):
            views = [self._half(operand, one, shift) for operand in op.operands[1:]]
            if base == "fma":
                halves.append(f"fma_{'bf2' if one == 'bf16' else 'f2'}({', '.join(views)})")
                continue
            text = f"{views[0]} {SIGNS[base]} {views[1]}"
            halves.append(f"bf2_of({text})" if one == "bf16" else f"({text}).view(u2)")
        return f"pack({halves[0]}, {halves[1]})"

    def _half(self, operand: Operand, kind: str, shift: int) -> str:
        bits = f"({self.value(operand, 'b32')} >> {self.constant(values.u4(shift))}).astype(u2)"
        return f"f4_of_bf2({bits})" if kind == "bf16" else f"{bits}.view(f2)"

    def _selp(self, op: Instruction) -> list[str]:
        kind = op.parts[-1]
        self._require_modes(op, set())
        a, b = (self.value(o, kind) for o in op.operands[1:3])
        text = f"np.where({self.value(op.operands[3], 'pred')}, {a}, {b})"
        return self.target(op.operands[0], text, kind, op)

    def _shl(self, op: Instruction) -> list[str]:
        """Translate a shift; one by a constant below the width is a Python shift."""
        kind, amount = op.parts[-1], op.operands[2]
        self._require_modes(op, set())
        a, left = self.value(op.operands[1], kind), op.parts[0] == "shl"
        if amount not in self.kernel.registers and int(amount, 0) < 8 * SIZES[kind]:
            letter = "i" if kind[0] == "s" else "u"
            count = self.constant(np.array(int(amount, 0)).astype(f"{letter}{SIZES[kind]}")[()])
            text = f"{a} {'<<' if left else '>>'} {count}"
        else:
            text = f"shift_{'left' if left else 'right'}({a}, {self.value(amount, 'u32')})"
        return self.target(op.operands[0], text, kind, op)

    _shr = _shl

    def _mul(self, op: Instruction) -> list[str]:
        kind = op.parts[-1]
        if "f" in kind:
            return self.arithmetic(op)
        return self.target(op.operands[0], *self._product(op), op)

    def _mad(self, op: Instruction) -> list[str]:
        if "f" in op.parts[-1]:
            return self.arithmetic(op)
        product, kind = self._product(op)
        text = f"{product} + {self.value(op.operands[3], kind)}"
        return self.target(op.operands[0], text, kind, op)

    def _product(self, op: Instruction) -> tuple[str, str]:
        """Translate an integer product; return it and its type, wider for mul.wide."""
        kind, modes = op.parts[-1], op.parts[1:-1]
        size = SIZES[kind]
        if len(modes) != 1 or modes[0] not in ("lo", "hi", "wide"):
            raise PtxError(f"unknown mode: {op.where()}")
        a, b = (self.value(o, kind) for o in op.operands[1:3])
        if modes == ["lo"]:
            return f"{a} * {b}", kind
        if size == 8:
            raise PtxError(f"128-bit product: {op.where()}")
        wider = f"{'i' if kind[0] == 's' else 'u'}{2 * size}"
        wide = f"({a}.astype({wider}) * {b}.astype({wider}))"
        if modes == ["wide"]:
            return wide, f"{kind[0]}{16 * size}"
        return f"({wide} >> {wider}({8 * size})).astype({wider[0]}{size})", kind

    def _mov(self, op: Instruction) -> list[str]:
        kind, (to, source) = op.parts[-1], op.operands
        self._require_modes(op, set())
        if isinstance(to, tuple):
            part = SIZES[kind] // len(to)
            lines = [f"{self.temporary} = {self.value(source, kind)}"]
            for i, register in enumerate(to):
                shift = self.constant(values.__dict__[UNSIGNED[SIZES[kind]]](8 * part * i))
                text = f"({self.temporary} >> {shift}).astype({UNSIGNED[part]})"
                lines += self.target(register, text, f"b{8 * part}", op)
            return lines
        if kind[0] in "sf":
            kind = f"b{8 * SIZES[kind]}"  # the bits, for values of any type
        text = self.value(source, kind)
        return self.target(to, f"m.full({text})" if text.startswith("K[") else text, kind, op)

    def _cvta(self, op: Instruction) -> list[str]:
        """Translate a change between generic and global addresses, which are the same here."""
        if op.opcode not in ("cvta.to.global.u64", "cvta.global.u64"):
            raise PtxError(f"unknown mode: {op.where()}")
        text = self.value(op.operands[1], "b64")
        return self.target(
            op.operands[0], f"m.full({text})" if text[:2] == "K[" else text, "b64", op
        )

    def _setp(self, op: Instruction) -> list[str]:
        kind, compare = op.parts[-1], op.parts[1]
        if set(op.parts[2:-1]) - {"and", "or", "xor"}:
            raise PtxError(f"unknown mode: {op.where()}")
        first, _, second = op.operands[0].partition("|")
        if kind in ("f16x2", "bf16x2"):
            # Each half has a predicate of its own.
            lines = []
            for register, shift in ((first, 0), (second, 16)):
                a, b = (self._half(o, kind.removesuffix("x2"), shift) for o in op.operands[1:3])
                lines += self.target(register, _comparison(compare, a, b, kind), "pred", op)
            return lines
        a, b = self.value(op.operands[1], kind), self.value(op.operands[2], kind)
        text = _comparison(compare, a, b, kind)
        if len(op.operands) == 4:
            text = f"({text} {SIGNS[op.parts[2]]} {self.value(op.operands[3], 'pred')})"
        lines = self.target(first, text, "pred", op)
        return lines + (self.target(second, f"~{name_of(first)}", "pred", op) if second else [])

    def _cvt(self, op: Instruction) -> list[str]:
        to, source = op.parts[-2:]
        modes = op.parts[1:-2]
        if set(modes) - {"rn", "rzi", "rni", "rmi", "rpi"}:
            raise PtxError(f"unknown mode: {op.where()}")
        if to in ("bf16x2", "f16x2") and source == "f32":
            make = "bf2_of" if to == "bf16x2" else "f2_of"
            high, low = (f"{make}({self.value(o, 'f32')})" for o in op.operands[1:])
            return self.target(op.operands[0], f"pack({low}, {high})", to, op)
        if to not in SIZES or source not in SIZES or to.endswith("x2") or source.endswith("x2"):
            raise PtxError(f"unknown type: {op.where()}")
        a = self.value(op.operands[1], source)
        integer = f"{'i' if to[0] == 's' else 'u'}{SIZES[to]}"
        if to in ("bf16", "f16") and source in FLOATS:
            return self.target(op.operands[0], f"{to[:-2]}2_of({a})", "b16", op)
        if to in FLOATS and to != "bf16":
            return self.target(op.operands[0], f"{a}.astype({FLOATS[to]})", to, op)
        if to in FLOATS:
            raise PtxError(f"unknown instruction {op.where()}")
        if source in FLOATS:
            rounding = next(m for m in modes if m.endswith("i"))
            return self.target(op.operands[0], f"to_int({a}, {integer}, {rounding!r})", to, op)
        return self.target(op.operands[0], f"{a}.astype({integer})", to, op)

    def _prmt(self, op: Instruction) -> list[str]:
        if op.opcode != "prmt.b32":
            raise PtxError(f"unknown mode: {op.where()}")
        a, b = (self.value(o, "b32") for o in op.operands[1:3])
        selector = op.operands[3]
        if selector in self.kernel.registers:
            return self.target(op.operands[0], f"prmt({a}, {b}, {name_of(selector)})", "b32", op)
        number = self.constant(immediate(selector, "u32"))
        return self.target(op.operands[0], f"prmt({a}, {b}, {number})", "b32", op)


def _comparison(compare: str, a: str, b: str, kind: str) -> str:
    """Translate a comparison; with NaN an ordered one is false and an unordered one true."""
    unordered = f"np.isnan({a}) | np.isnan({b})"
    is_float = "f" in kind
    if compare in ("num", "nan"):
        return f"(~({unordered}))" if compare == "num" else f"({unordered})"
    if is_float and compare == "ne":
        return f"(({a} < {b}) | ({a} > {b}))"
    if is_float and compare.endswith("u"):
        return f"(({a} {COMPARE[compare[:-1]]} {b}) | {unordered})"
    return f"({a} {COMPARE[compare]} {b})"
