# SPDX-License-Identifier: Apache-2.0
"""Access shared memory by threads and by cp.async."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .memory import PENDING, POISON, WRITTEN
from .shared_memory import Access
from .values import Array, u1, u8

WARP = 32


@dataclass
class Copy:
    """Hold a cp.async that has not arrived. at: offsets in shared memory. group: of its thread."""

    at: Array
    width: int
    data: Array
    thread: Array
    group: Array
    access: Access


class SharedAccess:
    """Provide the methods of `Lanes` for shared memory."""

    def _shared(self, index: int, address: Array, width: int, picked: Array | None):
        address = address if picked is None else address[picked]
        index_of = self.index if picked is None else self.index[picked]
        slot = self.slot if picked is None else self.slot[picked]
        at = self.batch.shared.offsets(address, slot, width, self.where(index))
        return at, index_of

    def _note(self, index: int, at: Array, width: int, thread: Array, data: Array | None) -> None:
        sub = self.batch.sub[thread // WARP]
        self.batch.shared.note(at, width, thread, sub, data, self.where(index))

    def _check_shared(self, index: int, at: Array, width: int) -> None:
        memory = self.batch.shared.bytes
        good = memory.all_are(at, width, WRITTEN)
        if not good.all():
            state = int(memory.state[at[~good][0]])
            kind = (
                "read of a cp.async under way" if state == PENDING else "uninitialised shared read"
            )
            where = f"{self.where(index)}: shared {at[~good][0] % self.batch.shared.stride}"
            self.batch.report(kind, f"{where}, {(~good).sum()} threads")

    def load_shared(
        self, index: int, address: Array, size: int, count: int, mask: Array | None
    ) -> list[Array]:
        width = size * count
        picked = None if mask is None else np.flatnonzero(mask)
        at, thread = self._shared(index, address, width, picked)
        self._check_shared(index, at, width)
        self._note(index, at, width, thread, None)
        return self._spread(self.batch.shared.bytes.read(at, width), size, count, picked)

    def store_shared(
        self, index: int, address: Array, size: int, what: list[Array], mask: Array | None
    ) -> None:
        width = size * len(what)
        picked = None if mask is None else np.flatnonzero(mask)
        at, thread = self._shared(index, address, width, picked)
        self._put(index, at, width, thread, self._gather(what, size, picked))

    def _put(self, index: int, at: Array, width: int, thread: Array, data: Array) -> None:
        self._note(index, at, width, thread, data)
        self.batch.shared.bytes.write(at, width, data)
        self.batch.shared.bytes.mark(at, width, WRITTEN)
        if self.launch.program.has_wgmma:
            spans = (at[:, None] + np.arange(width)).reshape(-1)
            self.batch.unfenced.append((spans, np.repeat(thread, width)))

    def copy_async(
        self,
        index: int,
        to: Array,
        source: Array,
        width: int,
        given: Array | None,
        mask: Array | None,
    ) -> None:
        """Read the source now; shared memory holds poison until the thread waits."""
        picked = np.arange(self.n) if mask is None else np.flatnonzero(mask)
        at, thread = self._shared(index, to, width, picked)
        data = np.zeros((len(picked), width), u1)
        some = (
            np.full(len(picked), width) if given is None else np.broadcast_to(given, self.n)[picked]
        )
        if (some > width).any():
            self.batch.report("cp.async of more than its size", self.where(index))
        memory = self.launch.memory
        for amount in np.unique(some):
            if amount == 0:
                continue
            rows = np.flatnonzero(some == amount)
            place = source[picked[rows]]
            if amount == width:
                whole, good = self._global(index, place, width, None)
                rows = rows if good is None else rows[good]
                self._check_written(index, whole, width)
                memory.order.read(self, whole, width, picked[rows], index)
                data[rows] = memory.bytes.read(whole, width)
                continue
            for byte in range(int(amount)):
                one, good = self._global(index, place + u8(byte), 1, None)
                keep = rows if good is None else rows[good]
                self._check_written(index, one, 1)
                data[keep, byte] = memory.bytes.read(one, 1)[:, 0]
        batch = self.batch
        batch.shared.bytes.write(at, width, np.full((len(picked), width), POISON, u1))
        batch.shared.bytes.mark(at, width, PENDING)
        sub = batch.sub[thread // WARP]
        access = Access(at, width, thread, sub, data, self.where(index))
        copy = Copy(at, width, data, thread, batch.committed[thread].copy(), access)
        batch.copies.append(copy)

    def _check_written(self, index: int, at: Array, width: int) -> None:
        memory = self.launch.memory
        if not memory.bytes.all_are(at, width, WRITTEN).all():
            self.batch.report("uninitialised global read", self.where(index))

    def commit(self) -> None:
        self.batch.committed[self.index] += 1

    def wait(self, left: int) -> None:
        """Let the copies of all but the last `left` groups of each thread arrive."""
        batch, memory = self.batch, self.batch.shared.bytes
        here = np.zeros(batch.count, bool)
        here[self.index] = True
        kept = []
        for copy in batch.copies:
            arrived = here[copy.thread] & (copy.group < batch.committed[copy.thread] - left)
            if arrived.any():
                at, data = copy.at[arrived], copy.data[arrived]
                memory.write(at, copy.width, data)
                memory.mark(at, copy.width, WRITTEN)
                thread = copy.thread[arrived]
                sub = batch.sub[thread // WARP]
                # While pending it counted in every interval; this interval is its last.
                batch.shared.note(at, copy.width, thread, sub, data, copy.access.text)
                if self.launch.program.has_wgmma:
                    spans = (at[:, None] + np.arange(copy.width)).reshape(-1)
                    batch.unfenced.append((spans, np.repeat(thread, copy.width)))
                stay = ~arrived
                if not stay.any():
                    continue
                access = copy.access
                rest = (copy.data[stay], copy.thread[stay], copy.group[stay])
                left_over = Access(
                    access.at[stay], access.width, rest[1], access.sub[stay], rest[0], access.text
                )
                copy = Copy(copy.at[stay], copy.width, *rest, left_over)
            kept.append(copy)
        batch.copies = kept
