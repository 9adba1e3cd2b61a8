# SPDX-License-Identifier: Apache-2.0
"""Translate instructions of whole warps and thread blocks to calls of `Lanes`."""

from __future__ import annotations

import re

from .operands import Operands, name_of
from .parse import Instruction, PtxError

BARRIERS = ("bar.sync", "barrier.sync.aligned", "barrier.sync")
# Fences that order all accesses of a thread, for the whole GPU.
FULL_FENCES = ("fence.acq_rel.gpu", "fence.sc.gpu", "membar.gl")
FENCES = ("fence.proxy.async", "fence.proxy.async.shared::cta", "fence.acq_rel", "membar")
FENCES += FULL_FENCES


class WarpOperations(Operands):
    """Provide the methods of `BlockCode` for warps, tensor cores and barriers."""

    def _results(self, op: Instruction, registers: tuple[str, ...], call: str) -> list[str]:
        """Translate to a call whose results are the 32-bit registers, in order."""
        lines = [f"{self.temporary} = {call}"]
        for i, register in enumerate(registers):
            lines += self.target(register, f"{self.temporary}[{i}]", "b32", op)
        return lines

    def _require(self, op: Instruction, known: bool) -> None:
        if not known:
            raise PtxError(f"unknown instruction {op.where()}")

    def _shfl(self, op: Instruction) -> list[str]:
        modes = ("up", "down", "bfly", "idx")
        self._require(op, op.opcode in [f"shfl.sync.{mode}.b32" for mode in modes])
        first, _, inside = op.operands[0].partition("|")
        arguments = ", ".join(self.value(o, "b32") for o in op.operands[1:])
        lines = self._results(
            op, (first,), f"m.shuffle({self.index}, {op.parts[2]!r}, {arguments})"
        )
        return lines + (self.target(inside, f"{self.temporary}[1]", "pred", op) if inside else [])

    def _vote(self, op: Instruction) -> list[str]:
        mode, kind = op.parts[2], op.parts[-1]
        self._require(op, (mode, kind) in (("ballot", "b32"), ("any", "pred"), ("all", "pred")))
        text = f"m.vote({self.index}, {mode!r}, {self.value(op.operands[1], 'pred')})"
        return self.target(op.operands[0], text, kind, op)

    def _redux(self, op: Instruction) -> list[str]:
        kind, action = op.parts[-1], op.parts[2]
        self._require(op, len(op.parts) == 4 and kind in ("u32", "s32", "b32"))
        text = f"m.redux({self.index}, {action!r}, {self.value(op.operands[1], kind)})"
        return self.target(op.operands[0], text, kind, op)

    def _ldmatrix(self, op: Instruction) -> list[str]:
        self._require(op, {"b16", "m8n8"} <= set(op.parts))
        to, address = op.operands
        to = to if isinstance(to, tuple) else (to,)
        arguments = f"{self.index}, {self.address(address, 4)}, {len(to)}, {'trans' in op.parts}"
        return self._results(op, to, f"m.load_matrix({arguments})")

    def _stmatrix(self, op: Instruction) -> list[str]:
        self._require(op, {"b16", "m8n8"} <= set(op.parts))
        address, source = op.operands
        source = source if isinstance(source, tuple) else (source,)
        what, trans = ", ".join(self.value(r, "b32") for r in source), "trans" in op.parts
        return [f"m.store_matrix({self.index}, {self.address(address, 4)}, [{what}], {trans})"]

    def _mma(self, op: Instruction) -> list[str]:
        out, left, right, add = op.parts[-4:]
        same = left == right and left in ("f16", "bf16") and out == add == "f32"
        self._require(op, same and op.parts[1:6] == ["sync", "aligned", "m16n8k16", "row", "col"])
        to, *sources = op.operands
        lists = ", ".join(map(_list, sources))
        call = f"mma_16x8x16({lists}, {left == 'bf16'})"
        return [f"m.whole_warps({self.index})", *self._results(op, to, call)]

    def _wgmma(self, op: Instruction) -> list[str]:
        if op.opcode == "wgmma.fence.sync.aligned":
            return ["pass"]
        if op.opcode == "wgmma.commit_group.sync.aligned":
            return ["m.wgmma_commit()"]
        if op.opcode == "wgmma.wait_group.sync.aligned":
            return [f"m.wgmma_wait({int(op.operands[0], 0)})"]
        form = r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.(bf16|f16)\.\2"
        shape = re.fullmatch(form, op.opcode)
        self._require(op, shape is not None)
        to, a, descriptor, keep, *rest = op.operands
        flags = [int(r, 0) for r in rest]
        # Signs of both operands, then whether a, if it is in shared memory, and b are transposed.
        held = isinstance(a, tuple)
        self._require(op, flags[:-1] == ([1, 1] if held else [1, 1, 0]) and flags[-1] in (0, 1))
        left = _list(a) if held else name_of(a)
        started = () if keep in ("0", "false") else to  # otherwise the product is added to nothing
        call = (
            f"m.wgmma({self.index}, {_list(started)}, {left}, {name_of(descriptor)}, "
            f"{self.value(keep, 'pred')}, {int(shape[1])}, {shape[2] == 'bf16'}, {flags[-1] == 1})"
        )
        return self._results(op, to, call)

    def _bar(self, op: Instruction) -> list[str]:
        if op.opcode == "bar.warp.sync":
            return [f"m.warp_barrier({self.index})"]
        self._require(op, op.opcode in BARRIERS and op.operands == ("0",))
        return []

    _barrier = _bar

    def _fence(self, op: Instruction) -> list[str]:
        full = op.opcode in FULL_FENCES
        self._require(op, op.opcode.startswith(FENCES) and not (full and op.guard))
        return [f"m.fence({'proxy' in op.parts}, {full})"]

    _membar = _fence

    def _nanosleep(self, op: Instruction) -> list[str]:
        return []


def _list(registers: tuple[str, ...]) -> str:
    return "[" + ", ".join(map(name_of, registers)) + "]"
