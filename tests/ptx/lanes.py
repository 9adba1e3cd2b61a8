# SPDX-License-Identifier: Apache-2.0
"""Run the threads of a basic block together: the `m` of the generated code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import values
from .lanes_shared import SharedAccess
from .lanes_warp import WarpInstructions
from .memory import VIEWS, WRITTEN
from .operands import UNSIGNED
from .parse import SIZES
from .values import Array, add_bf2x2, u1, u4

if TYPE_CHECKING:
    from .machine import Batch

WARP = 32
DTYPES = {size: getattr(values, name) for size, name in UNSIGNED.items()}


class Lanes(SharedAccess, WarpInstructions):
    """Hold some threads of a batch: special registers, parameters and global memory.

    index: of the threads in the batch. slot: of their thread blocks in it. linear: of those blocks
    in the grid. thread: in its block. `index` arguments of methods are of the instruction.
    """

    def __init__(self, batch: Batch, index: Array):
        self.batch, self.index, self.n = batch, index, len(index)
        self.launch = batch.launch
        self.slot = index // batch.threads
        self.thread = (index % batch.threads).astype(u4)
        self.linear = batch.linear[self.slot]

    def issue(self, block) -> None:
        issued = self.launch.result.issued
        for name, count in block.mix.items():
            issued[name] += count * self.n

    def where(self, index: int) -> str:
        return self.launch.program.kernel.instructions[index].where()

    def full(self, value: np.generic) -> Array:
        return np.full(self.n, value)

    def poison(self, register: str) -> Array:
        kind = self.launch.program.kernel.registers[register]
        if kind == "pred":
            return np.zeros(self.n, bool)
        dtype = DTYPES[SIZES[kind]]
        return np.full(self.n, np.iinfo(dtype).max, dtype)

    def register(self, registers: dict[str, Array], name: str) -> Array:
        found = registers.get(name)
        return self.poison(name) if found is None else found

    def parameter(self, name: str) -> Array:
        return np.full(self.n, self.launch.parameters[name])

    def fields(self, index: int, address: Array, size: int, count: int) -> list[Array]:
        """Read fields of the parameters. Raises IndexError beyond them."""
        space = self.launch.parameter_space
        parts = address.astype(np.int64)[:, None] + np.arange(size * count)
        if parts.min() < 0 or parts.max() >= len(space):
            raise IndexError(f"beyond the parameters: {self.where(index)}")
        found = np.ascontiguousarray(space[parts]).view(VIEWS[size])
        return list(np.ascontiguousarray(found.T))

    def report_call(self, index: int, kind: str, mask: Array | None) -> None:
        if mask is None or mask.any():
            self.batch.report(kind, self.where(index))

    def special(self, name: str) -> Array:
        what, _, axis = name.removeprefix("%").partition(".")
        axis = "xyz".find(axis) if axis else 0
        x, y, z = self.launch.grid
        width, height, depth = self.launch.block
        if what == "tid":
            place = self.thread // u4((1, width, width * height)[axis])
            return place % u4((width, height, depth)[axis])
        if what == "ntid":
            return self.full(u4((width, height, depth)[axis]))
        if what == "nctaid":
            return self.full(u4((x, y, z)[axis]))
        if what == "ctaid":
            return (self.linear // (1, x, x * y)[axis] % (x, y, z)[axis]).astype(u4)
        if what == "laneid":
            return self.thread % u4(WARP)
        if what == "warpid":
            return self.thread // u4(WARP)
        raise NotImplementedError(name)

    # Global memory

    def _global(self, index: int, address: Array, width: int, mask: Array | None):
        """Return offsets, and the threads whose access is valid (None: all)."""
        picked = None if mask is None else np.flatnonzero(mask)
        if picked is not None:
            address = address[picked]
        at, good = self.launch.memory.offsets(address, width, self.where(index))
        if good is not None:
            keep = np.flatnonzero(good)
            at = at[keep]
            picked = keep if picked is None else picked[keep]
        return at, picked

    def load_global(
        self, index: int, address: Array, size: int, count: int, mask: Array | None
    ) -> list[Array]:
        width = size * count
        at, picked = self._global(index, address, width, mask)
        memory = self.launch.memory
        written = memory.bytes.all_are(at, width, WRITTEN)
        if not written.all():
            where = memory.name(at[~written][0])
            self.batch.report("uninitialised global read", f"{self.where(index)}: {where}")
        memory.order.read(self, at, width, picked, index)
        data = memory.bytes.read(at, width)
        return self._spread(data, size, count, picked)

    def _spread(self, data: Array, size: int, count: int, picked: Array | None) -> list[Array]:
        """Split [n, width] bytes into an array for each register; other threads get poison."""
        parts = np.ascontiguousarray(data).view(VIEWS[size]).reshape(-1, count)
        if picked is not None:
            everyone = np.full((self.n, count), np.iinfo(VIEWS[size]).max, VIEWS[size])
            everyone[picked] = parts
            parts = everyone
        return list(np.ascontiguousarray(parts.T))

    def store_global(
        self, index: int, address: Array, size: int, what: list[Array], mask: Array | None
    ) -> None:
        width = size * len(what)
        at, picked = self._global(index, address, width, mask)
        data = self._gather(what, size, picked)
        memory = self.launch.memory
        memory.order.write(self, at, width, picked, index, data)
        memory.bytes.write(at, width, data)
        memory.bytes.mark(at, width, WRITTEN)

    def _gather(self, what: list[Array], size: int, picked: Array | None) -> Array:
        """Join registers to [n, width] bytes of the threads that store."""
        columns = [np.broadcast_to(part, self.n) for part in what]
        data = np.stack(columns, axis=1).astype(VIEWS[size], copy=False)
        if picked is not None:
            data = data[picked]
        return np.ascontiguousarray(data).view(u1).reshape(-1, size * len(what))

    def atomic(
        self,
        index: int,
        address: Array,
        action: str,
        what: list[Array],
        order: str,
        mask: Array | None,
    ) -> Array:
        """Apply an atomic for one thread after another, in their order."""
        size = what[0].dtype.itemsize
        at, picked = self._global(index, address, size, mask)
        threads = np.arange(self.n) if picked is None else picked
        old = np.full(self.n, np.iinfo(VIEWS[size]).max, VIEWS[size])
        memory = self.launch.memory
        operands = [np.broadcast_to(w, self.n) for w in what]
        for offset, thread in zip(at.tolist(), threads.tolist(), strict=True):
            one = np.array([offset])
            if not memory.bytes.all_are(one, size, WRITTEN).all():
                where = memory.name(offset)
                self.batch.report("uninitialised global read", f"{self.where(index)}: {where}")
            memory.order.atomic(self, offset, size, thread, order, index)
            before = memory.bytes.read(one, size).view(operands[0].dtype).reshape(1)
            args = [w[thread : thread + 1] for w in operands]
            after = {
                "add": lambda a, b: a + b,
                "add_bf16x2": add_bf2x2,
                "min": np.minimum,
                "max": np.maximum,
                "and": lambda a, b: a & b,
                "or": lambda a, b: a | b,
                "xor": lambda a, b: a ^ b,
                "exch": lambda a, b: b,
                "cas": lambda a, b, c: np.where(a == b, c, a),
            }[action](before, *args)
            memory.bytes.write(one, size, np.ascontiguousarray(after).view(u1).reshape(1, -1))
            old[thread] = before.view(VIEWS[size])[0]
        return old

    def load_ordered(
        self, index: int, address: Array, size: int, order: str, mask: Array | None
    ) -> Array:
        """Load for one thread after another, and take part in the order of atomics."""
        at, picked = self._global(index, address, size, mask)
        threads = np.arange(self.n) if picked is None else picked
        got = np.full(self.n, np.iinfo(VIEWS[size]).max, VIEWS[size])
        memory = self.launch.memory
        for offset, thread in zip(at.tolist(), threads.tolist(), strict=True):
            one = np.array([offset])
            if not memory.bytes.all_are(one, size, WRITTEN).all():
                where = memory.name(offset)
                self.batch.report("uninitialised global read", f"{self.where(index)}: {where}")
            memory.order.load(self, offset, thread, order, index)
            got[thread] = memory.bytes.read(one, size).view(VIEWS[size])[0, 0]
        return got

    def fence(self, proxy: bool, of_the_gpu: bool) -> None:
        if of_the_gpu:
            self.launch.memory.order.fence(self)
        if proxy:
            mine = np.zeros(self.batch.count, bool)
            mine[self.index] = True
            left = [
                (at[keep], thread[keep])
                for at, thread in self.batch.unfenced
                for keep in (~mine[thread],)
            ]
            self.batch.unfenced = [pair for pair in left if len(pair[0])]
