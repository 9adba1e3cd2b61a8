# SPDX-License-Identifier: Apache-2.0
"""Translate loads, stores, copies and atomics to calls of `Lanes`."""

from __future__ import annotations

from .operands import UNSIGNED, Operands, as_type
from .parse import SIZES, STRUCT, Address, Instruction, Operand, PtxError

SPACES = {"param", "global", "shared", "shared::cta"}
# Cache operators and vectors; a cache operator does not change what is read.
CACHES = {"ca", "cg", "cs", "lu", "cv", "nc", "wb", "wt", "v2", "v4"}
ACTIONS = {"add", "min", "max", "and", "or", "xor", "exch", "cas"}
ORDERS = {"relaxed", "acquire", "release", "acq_rel"}
# What a kernel calls when something is wrong: the kind of the finding.
CALLS = {"__assertfail": "assertion failed", "vprintf": "message printed"}
ATOMIC_TYPES = {"u32", "s32", "b32", "u64", "s64", "b64", "f32"}


class MemoryAccess(Operands):
    """Provide the methods of `BlockCode` for memory."""

    def _ld(self, op: Instruction) -> list[str]:
        if orders := set(op.parts) & ORDERS:
            return self._ordered_ld(op, orders)
        kind, space = op.parts[-1], self._space(op)
        to, address = op.operands[:2]
        if space == "param":
            return self._parameter(op)
        registers = to if isinstance(to, tuple) else (to,)
        where = self.address(address, 4 if space == "shared" else 8)
        arguments = f"{self.index}, {where}, {SIZES[kind]}, {len(registers)}, {self.guard(op)}"
        lines = [f"{self.temporary} = m.load_{space}({arguments})"]
        for i, register in enumerate(registers):
            lines += self.target(register, as_type(f"{self.temporary}[{i}]", kind), kind, op)
        return lines

    def _ordered_ld(self, op: Instruction, orders: set[str]) -> list[str]:
        kind = op.parts[-1]
        if set(op.parts[1:-1]) - orders != {"global", "gpu"} or kind not in ATOMIC_TYPES - {"f32"}:
            raise PtxError(f"unknown mode: {op.where()}")
        to, address = op.operands
        call = (
            f"m.load_ordered({self.index}, {self.address(address, 8)}, {SIZES[kind]}, "
            f"{orders.pop()!r}, {self.guard(op)})"
        )
        return self.target(to, call, f"b{8 * SIZES[kind]}", op)

    def _space(self, op: Instruction) -> str:
        """Return param, global or shared. Raises PtxError on any other, and on unknown modes."""
        modes = set(op.parts[1:-1])
        spaces = modes & SPACES
        if len(spaces) != 1 or {m for m in modes - SPACES if m[:2] not in ("L1", "L2")} - CACHES:
            raise PtxError(f"unknown mode: {op.where()}")
        return spaces.pop().removesuffix("::cta")

    def _parameter(self, op: Instruction) -> list[str]:
        kind, (to, address) = op.parts[-1], op.operands
        size = SIZES[kind]
        if address.base in self.kernel.arguments:  # what a call of CALLS returned
            return self.target(to, f"m.full({UNSIGNED[size]}(0))", kind, op)
        have = self.kernel.parameters.get(address.base, STRUCT)
        if have == STRUCT:
            return self._part_of_parameters(op, kind, to, address)
        if SIZES[have] < size or address.offset:
            raise PtxError(f"part of a parameter: {op.where()}")
        text = f"m.parameter({address.base!r})"
        if SIZES[have] != size:
            text = f"{text}.astype({UNSIGNED[size]})"
        return self.target(to, as_type(text, kind), kind, op)

    def _part_of_parameters(
        self, op: Instruction, kind: str, to: Operand, address: Address
    ) -> list[str]:
        """Load fields of a structure, by the address of one or by its name."""
        registers = to if isinstance(to, tuple) else (to,)
        where = self.address(address, 8)
        call = f"m.fields({self.index}, {where}, {SIZES[kind]}, {len(registers)})"
        lines = [f"{self.temporary} = {call}"]
        for i, register in enumerate(registers):
            lines += self.target(register, as_type(f"{self.temporary}[{i}]", kind), kind, op)
        return lines

    def _call(self, op: Instruction) -> list[str]:
        """Translate a call of a function that reports to a finding; the thread goes on."""
        called = next(name for name in op.operands if "(" not in name)
        if called not in CALLS:
            raise PtxError(f"unknown function: {op.where()}")
        return [f"m.report_call({self.index}, {CALLS[called]!r}, {self.guard(op)})"]

    def _st(self, op: Instruction) -> list[str]:
        kind, space = op.parts[-1], self._space(op)
        address, source = op.operands[:2]
        if space == "param" and address.base in self.kernel.arguments:
            return []  # for a call
        if space == "param":
            raise PtxError(f"unknown instruction {op.where()}")
        registers = source if isinstance(source, tuple) else (source,)
        what = ", ".join(self.value(r, f"b{8 * SIZES[kind]}") for r in registers)
        where = self.address(address, 4 if space == "shared" else 8)
        return [
            f"m.store_{space}({self.index}, {where}, {SIZES[kind]}, [{what}], {self.guard(op)})"
        ]

    def _cp(self, op: Instruction) -> list[str]:
        if op.opcode == "cp.async.commit_group":
            return ["m.commit()"]
        if op.opcode == "cp.async.wait_group":
            return [f"m.wait({int(op.operands[0], 0)})"]
        if op.opcode == "cp.async.wait_all":
            return ["m.commit()", "m.wait(0)"]
        if not op.opcode.startswith(("cp.async.ca.shared", "cp.async.cg.shared")):
            raise PtxError(f"unknown instruction {op.where()}")
        to, source, size, *rest = op.operands
        given = self.value(rest[0], "u32") if rest else "None"
        return [
            f"m.copy_async({self.index}, {self.address(to, 4)}, {self.address(source, 8)}, "
            f"{int(size, 0)}, {given}, {self.guard(op)})"
        ]

    def _atom(self, op: Instruction) -> list[str]:
        returns = op.parts[0] == "atom"
        kind, modes = op.parts[-1], set(op.parts[1:-1])
        actions, orders = modes & ACTIONS, modes & ORDERS or {"relaxed"}
        # Two halves of a word are each added; a generic address is a global one here.
        halves = kind == "bf16x2" and {"add", "noftz"} <= modes
        allowed = ACTIONS | ORDERS | {"global", "gpu", "sys"} | ({"noftz"} if halves else set())
        if (
            modes - allowed
            or (len(actions), len(orders)) != (1, 1)
            or (not halves and ("global" not in modes or kind not in ATOMIC_TYPES))
        ):
            raise PtxError(f"unknown mode: {op.where()}")
        action = "add_bf16x2" if halves else actions.pop()
        address, *rest = op.operands[1 if returns else 0 :]
        what = ", ".join(self.value(r, kind) for r in rest)
        call = (
            f"m.atomic({self.index}, {self.address(address, 8)}, {action!r}, [{what}], "
            f"{orders.pop()!r}, {self.guard(op)})"
        )
        return self.target(op.operands[0], call, f"b{8 * SIZES[kind]}", op) if returns else [call]

    _red = _atom
