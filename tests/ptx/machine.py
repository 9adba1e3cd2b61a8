# SPDX-License-Identifier: Apache-2.0
"""Run a translated kernel over a grid: thread blocks in batches, in any order.

Threads at the same basic block run it together. Where they diverge, the earliest basic block in
the text runs first, so that they reconverge. Each thread block has its own barriers. A random
schedule picks the thread blocks that advance: they interleave at barriers, atomics and branches.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .global_order import GlobalOrder
from .lanes import WARP, Lanes
from .lanes_shared import Copy
from .memory import GlobalMemory
from .shared_memory import Access, SharedMemory
from .translate import Block, Program
from .values import Array, i8


@dataclass
class Result:
    """Hold what a launch did.

    findings: descriptions by kind, with their counts. issued: instructions by class, over threads.
    undefined: registers that some path reads before it writes them.
    """

    findings: dict[str, Counter] = field(default_factory=dict)
    issued: Counter = field(default_factory=Counter)
    blocks_run: int = 0
    undefined: dict[str, str] = field(default_factory=dict)

    def report(self, kind: str, what: str) -> None:
        self.findings.setdefault(kind, Counter())[what] += 1


@dataclass
class Launch:
    """Hold what to run.

    grid: three sizes. threads, shared: threads, of whole warps, and shared bytes of a block
    shape: of a block of threads, by default all in a row; threads beyond it do not run
    """

    program: Program
    grid: tuple[int, int, int]
    threads: int
    shared: int
    parameters: dict[str, np.generic | Array]
    memory: GlobalMemory
    result: Result
    shape: tuple[int, int, int] | None = None

    @property
    def block(self) -> tuple[int, int, int]:
        return self.shape or (self.threads, 1, 1)

    @cached_property
    def parameter_space(self) -> Array:
        """Return the bytes of all parameters, each at its offset in the kernel."""
        kernel = self.program.kernel
        last = list(kernel.sizes)[-1]
        space = np.zeros(kernel.offset(last) + kernel.sizes[last], np.uint8)
        for name, value in self.parameters.items():
            data = np.atleast_1d(value).view(np.uint8)
            space[kernel.offset(name) :][: len(data)] = data
        return space


def run(
    launch: Launch,
    *,
    order: str = "forward",
    batch: int | None = None,
    schedule: str = "lockstep",
    seed: int = 0,
) -> Result:
    """Run every thread block of the grid.

    order: forward, reverse or random, of thread blocks
    batch: how many thread blocks run at once; None for about 2048 threads
    schedule: lockstep or random, within a batch
    """
    x, y, z = launch.grid
    ids = list(range(x * y * z))
    chance = random.Random(seed)
    if order == "reverse":
        ids.reverse()
    elif order == "random":
        chance.shuffle(ids)
    batch = batch or max(1, 2048 // launch.threads)
    launch.memory.order = GlobalOrder(launch)
    with np.errstate(all="ignore"):
        for start in range(0, len(ids), batch):
            Batch(launch, ids[start : start + batch], chance, schedule).run()
    launch.result.blocks_run += len(ids)
    return launch.result


class Batch:
    """Run thread blocks at the same time."""

    def __init__(self, launch: Launch, ids: list[int], chance: random.Random, schedule: str):
        self.launch, self.chance, self.random = launch, chance, schedule == "random"
        self.blocks, self.threads = len(ids), launch.threads
        self.count = self.blocks * self.threads
        self.report = launch.result.report
        self.shared = SharedMemory(self.blocks, launch.shared, self.threads, self.report)
        self.linear = np.array(ids, i8)
        self.registers: dict[str, Array] = {}
        self.at = np.zeros(self.count, np.int32)
        self.waiting = np.zeros(self.count, bool)
        width, height, depth = launch.block
        self.done = np.arange(self.count) % self.threads >= width * height * depth
        self.epoch = np.zeros(self.blocks, i8)
        self.sub = np.zeros(self.count // WARP, i8)
        self.committed = np.zeros(self.count, i8)
        self.copies: list[Copy] = []
        self.wgmmas: list[tuple[Access, Array, Array]] = []
        self.wgmma_groups = np.zeros(self.count, i8)
        self.unfenced: list[tuple[Array, Array]] = []
        self.whole = Lanes(self, np.arange(self.count))

    def run(self) -> None:
        program = self.launch.program
        together, limit = not self.done.any(), 10_000_000
        while limit:
            limit -= 1
            if together:
                lanes, here = self.whole, int(self.at[0])
            else:
                lanes, here = self._choose()
                if lanes is None:
                    break
                together = lanes is self.whole
            block = program.blocks[here]
            lanes.issue(block)
            if lanes is self.whole:
                taken = block.code(lanes, self.registers, program.constants)
            else:
                taken = self._run_part(block, lanes)
            together = self._advance(block, here, lanes, taken) and together
        if not limit:
            self.report("endless", self.launch.program.kernel.name)
        if not self.done.all():
            self.report("deadlock at a barrier", f"{(~self.done).sum()} threads")
        if any(len(copy.at) for copy in self.copies):
            self.report("cp.async not waited for", self.launch.program.kernel.name)

    def _run_part(self, block: Block, lanes: Lanes) -> Array | None:
        """Run a basic block for some of the threads, on a copy of their registers."""
        part = {r: self.registers[r][lanes.index] for r in block.reads if r in self.registers}
        taken = block.code(lanes, part, self.launch.program.constants)
        for register in block.writes:
            old = self.registers.get(register)
            new = self.whole.poison(register) if old is None else old.copy()
            new[lanes.index] = part[register]
            self.registers[register] = new
        return taken

    def _choose(self) -> tuple[Lanes | None, int]:
        ready = ~self.waiting & ~self.done
        if not ready.any():
            return None, 0
        if self.random:
            slots = np.unique(self.whole.slot[ready])
            some = self.chance.sample(slots.tolist(), self.chance.randint(1, len(slots)))
            ready &= np.isin(self.whole.slot, some)
        here = int(self.at[ready].min())
        mask = ready & (self.at == here)
        if mask.all():
            return self.whole, here
        return Lanes(self, np.flatnonzero(mask)), here

    def _advance(self, block: Block, here: int, lanes: Lanes, taken: Array | None) -> bool:
        """Move threads to their next basic block; return whether all are still together."""
        end = block.end.parts[0] if block.end else None
        whole = lanes is self.whole
        index = slice(None) if whole else lanes.index
        if end == "bra":
            if taken is None or taken.all():
                self.at[index] = block.target
            elif not taken.any():
                self.at[index] = here + 1
            else:
                self.at[index] = np.where(taken, block.target, here + 1)
                return False
        elif end in ("ret", "exit"):
            if taken is None:
                self.done[index] = True
            else:
                self.done[lanes.index[taken]] = True
            self.at[index] = here + 1
            self._release()
            return False
        elif end in ("bar", "barrier"):
            self.at[index] = here + 1
            self.waiting[index] = True
            self._release()
            if self.waiting.any() or self.done.any():
                return False
        else:
            self.at[index] = here + 1
        return whole and not self.random

    def _release(self) -> None:
        """Release each thread block whose running threads all wait at a barrier."""
        arrived = (self.waiting | self.done).reshape(self.blocks, -1).all(axis=1)
        released = arrived & self.waiting.reshape(self.blocks, -1).any(axis=1)
        ended = self.done.reshape(self.blocks, -1).all(axis=1)
        if not (released | ended).any():
            return
        stop = self.at.reshape(self.blocks, -1)
        waits = self.waiting.reshape(self.blocks, -1)
        for slot in np.flatnonzero(released):
            if len(np.unique(stop[slot][waits[slot]])) > 1:
                self.report("threads at different barriers", self.launch.program.kernel.name)
        every = (released | ended).all()
        pending = [c.access for c in self.copies] + [access for access, _, _ in self.wgmmas]
        self.shared.barrier(None if every else released | ended, pending)
        self.epoch[released] += 1
        self.sub += np.repeat(released, self.threads // WARP)
        self.waiting &= ~np.repeat(released, self.threads)
