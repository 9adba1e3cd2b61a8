# SPDX-License-Identifier: Apache-2.0
"""Translate a basic block to a Python function over arrays of one element per thread.

The function takes the registers that it reads from a dict, computes in local variables, and writes
back those that other blocks read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import tensor_core, values
from .arithmetic import Arithmetic
from .memory_code import MemoryAccess
from .operands import name_of, uses
from .parse import Instruction, Kernel, PtxError
from .warp_code import WarpOperations

JUMPS = ("bra", "ret", "exit")


class BlockCode(Arithmetic, MemoryAccess, WarpOperations):
    """Hold the instructions of one block.

    reads, writes: registers that it needs and changes
    surely_written: registers that it changes in every thread
    first_reads: for a register read before the block surely writes it, the first reader
    """

    def __init__(self, kernel: Kernel, first: int, stop: int | None):
        self.kernel, self.first = kernel, first
        self.ops = kernel.instructions[first:stop]
        self.reads: set[str] = set()
        self.writes: set[str] = set()
        self.surely_written: set[str] = set()
        self.first_reads: dict[str, Instruction] = {}
        for op in self.ops:
            self._note_registers(op)

    def _note_registers(self, op: Instruction) -> None:
        sources, targets = uses(op)
        registers = [r for r in sources if r in self.kernel.registers]
        for register in [*registers, *([op.guard] if op.guard else [])]:
            if register not in self.surely_written:
                self.first_reads.setdefault(register, op)
            if register not in self.writes:
                self.reads.add(register)
        for register in targets:
            if op.guard and register not in self.writes:
                self.reads.add(register)  # threads whose guard is false keep the old value
            self.writes.add(register)
            if not op.guard:
                self.surely_written.add(register)

    def compile(self, wanted: set[str], constants: list[Any]) -> Callable[..., Any]:
        """Compile to code(m, R, K), which returns the threads that take the branch, None for all.

        m: the `Lanes` that run it. R: registers. K: `constants`, to which new ones are appended
        wanted: registers that some block reads
        """
        self.constants = constants
        lines = [f"{name_of(r)} = m.register(R, {r!r})" for r in sorted(self.reads)]
        end = "None"
        for index, op in enumerate(self.ops):
            self.index = self.first + index
            if op.parts[0] in JUMPS:
                end = self.guard(op) or "None"
                continue
            try:
                lines += self._lines(op)
            except (KeyError, ValueError, IndexError, AttributeError, StopIteration) as error:
                raise PtxError(f"{op.where()}: {type(error).__name__} {error}") from error
        lines += [f"R[{r!r}] = {name_of(r)}" for r in sorted(self.writes & wanted)]
        source = "def block(m, R, K):\n    " + "\n    ".join([*lines, f"return {end}"])
        space: dict[str, Any] = {"np": np, **vars(values), **vars(tensor_core)}
        exec(compile(source, f"<block at {self.first}>", "exec"), space)
        return space["block"]

    def _lines(self, op: Instruction) -> list[str]:
        method = getattr(self, f"_{op.parts[0]}", None)
        return method(op) if method else self.arithmetic(op)
