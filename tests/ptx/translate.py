# SPDX-License-Identifier: Apache-2.0
"""Translate a kernel to basic blocks, and find misuse of registers in its text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

from .block_code import JUMPS, BlockCode
from .operands import uses
from .parse import SIZES, Instruction, Kernel

ENDS = (*JUMPS, "bar", "barrier", "atom", "red")


@dataclass
class Block:
    """Hold a basic block.

    code: see `BlockCode.compile`. reads, writes: registers that it takes and gives back
    end: its last instruction, if that decides what comes next. target: the block of a branch
    mix: how many instructions of each class a thread issues
    """

    code: Callable[..., Any]
    reads: list[str]
    writes: list[str]
    end: Instruction | None
    target: int | None
    mix: Counter


@dataclass
class Program:
    """Hold a translated kernel.

    undefined: registers that some path reads before it writes them, and where
    misused: registers accessed during a wgmma that uses them, or passed to it without a fence
    """

    kernel: Kernel
    blocks: list[Block]
    constants: list[Any]
    undefined: dict[str, str] = field(default_factory=dict)
    misused: dict[str, str] = field(default_factory=dict)

    @cached_property
    def has_wgmma(self) -> bool:
        return any("wgmma" in block.mix for block in self.blocks)


def translate(kernel: Kernel) -> Program:
    """Translate a kernel. Raises PtxError on an unknown instruction, mode or type."""
    starts = {0, *kernel.labels.values()}
    starts |= {index + 1 for index, op in enumerate(kernel.instructions) if _ends_block(op)}
    order = sorted(s for s in starts if s < len(kernel.instructions))
    number = {start: i for i, start in enumerate(order)}
    pieces = [BlockCode(kernel, a, b) for a, b in zip(order, [*order[1:], None], strict=True)]
    wanted = {name for piece in pieces for name in piece.reads}
    program = Program(kernel, [], [])
    for piece in pieces:
        last = piece.ops[-1]
        branches = last.parts[0] == "bra"
        program.blocks.append(
            Block(
                code=piece.compile(wanted, program.constants),
                reads=sorted(piece.reads),
                writes=sorted(piece.writes & wanted),
                end=last if _ends_block(last) else None,
                target=number[kernel.labels[last.operands[0]]] if branches else None,
                mix=Counter(class_of(op) for op in piece.ops),
            )
        )
    _find_undefined(program, pieces)
    _find_misused(program, pieces)
    return program


def _ends_block(op: Instruction) -> bool:
    return op.parts[0] in ENDS and op.opcode != "bar.warp.sync"


def class_of(op: Instruction) -> str:
    """Return the class under which an instruction is counted."""
    base, opcode = op.parts[0], op.opcode
    if base == "cp":
        return "cp.async group" if "group" in opcode else "cp.async"
    if base in ("ld", "st", "atom", "red"):
        space = next((s for s in ("param", "shared", "global") if s in opcode), "global")
        count = 4 if ".v4" in opcode else 2 if ".v2" in opcode else 1
        size = f" {count * SIZES[op.parts[-1]]}B" if base in ("ld", "st") else ""
        return f"{base}.{space}{size}"
    if base in ("ldmatrix", "stmatrix", "mma", "wgmma", "shfl", "fence", "membar"):
        return base
    if base in ("bar", "barrier"):
        return ".".join(op.parts[:2])
    if base in JUMPS:
        return "branch"
    if base in ("mov", "cvt", "setp", "selp", "prmt", "lop3"):
        return base
    if base in ("ex2", "rcp", "rsqrt", "sqrt", "lg2", "tanh", "sin", "cos"):
        return "special"
    kind = op.parts[-1]
    return f"{kind if kind in ('f16', 'f16x2', 'bf16x2', 'f32') else 'integer'} arithmetic"


# Registers that wgmmas hold: of those that no group has yet, then by group, the newest first.
_Held = tuple[frozenset[str], ...]
_MOST_GROUPS = 8  # under way at once; older ones count as one


def _find_misused(program: Program, pieces: list[BlockCode]) -> None:
    """Follow every path to find accesses to a wgmma's registers before the wait for it."""
    before: list[_Held] = [(frozenset(),) for _ in pieces]
    work = list(range(len(pieces)))
    while work:
        index = work.pop()
        held = _find_misused_in(program, pieces[index], before[index])
        following = _following(program, index)
        if not following:
            for register in frozenset().union(*held):
                where = pieces[index].ops[-1].where()
                program.misused.setdefault(f"{register} never waited for", where)
        for each in following:
            pairs = zip_longest(before[each], held, fillvalue=frozenset())
            joined = tuple(one | other for one, other in pairs)
            if joined != before[each]:
                before[each] = joined
                work.append(each)


def _find_misused_in(program: Program, piece: BlockCode, before: _Held) -> _Held:
    """Return what wgmmas still hold at a block's end, given what they hold at its start."""
    held = before
    fenced = False
    changed: set[str] = set()
    for op in piece.ops:
        sources, targets = uses(op)
        if op.opcode.startswith("wgmma.fence"):
            fenced, changed = True, set()
        elif op.opcode.startswith("wgmma.commit_group"):
            oldest = frozenset().union(*held[_MOST_GROUPS - 1 :])
            held = (frozenset(), *held[: _MOST_GROUPS - 1], oldest)
        elif op.opcode.startswith("wgmma.wait_group"):
            held = held[: 1 + int(op.operands[0], 0)]
        elif "mma_async" in op.opcode:
            accumulators, a = op.operands[:2]
            taken = {*accumulators, *(a if isinstance(a, tuple) else ())}
            for register in taken & changed if fenced else taken:
                program.misused.setdefault(f"{register} not fenced", op.where())
            held = (held[0] | taken, *held[1:])
        else:
            for register in frozenset().union(*held) & {*sources, *targets}:
                program.misused.setdefault(f"{register} under way", op.where())
            changed |= set(targets)
    return held


def _following(program: Program, index: int) -> list[int]:
    """List the blocks that may run after one."""
    block = program.blocks[index]
    following = [] if block.target is None else [block.target]
    end = block.end
    falls = end is None or end.guard or end.parts[0] not in JUMPS
    if falls and index + 1 < len(program.blocks):
        following.append(index + 1)
    return following


def _find_undefined(program: Program, pieces: list[BlockCode]) -> None:
    """Follow every path from the start to find registers read before they are written."""
    before: list[set[str] | None] = [set(), *[None] * (len(pieces) - 1)]
    work = [0]
    while work:
        index = work.pop()
        after = before[index] | pieces[index].surely_written
        for each in _following(program, index):
            known = after if before[each] is None else before[each] & after
            if known != before[each]:
                before[each] = set(known)
                work.append(each)
    for surely, piece in zip(before, pieces, strict=True):
        for register, op in piece.first_reads.items():
            if surely is not None and register not in surely:
                program.undefined.setdefault(register, op.where())
