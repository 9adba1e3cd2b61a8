# SPDX-License-Identifier: Apache-2.0
"""Model shared memory of thread blocks, and find races between two barriers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .memory import ALLOCATED, GUARD, SHARED_BASE, Bytes, Report
from .values import Array, i8, u8


@dataclass
class Access:
    """Hold the accesses of one instruction to shared memory.

    at: byte offset of each, over the thread blocks of a batch. thread: of the batch
    sub: how many barriers of its warp a thread had passed
    data: the bytes written, [n, width], or None for a read
    """

    at: Array
    width: int
    thread: Array
    sub: Array
    data: Array | None
    text: str


class SharedMemory:
    """Hold the shared memory of each thread block, and accesses since its last barrier."""

    def __init__(self, blocks: int, size: int, threads: int, report: Report):
        self.report = report
        self.size, self.stride, self.threads = size, -(-(size + GUARD) // 1024) * 1024, threads
        self.bytes = Bytes(blocks * self.stride)
        for block in range(blocks):
            self.bytes.state[block * self.stride :][:size] = ALLOCATED
        self.accesses: list[Access] = []
        self._owner = np.zeros(blocks * self.stride, np.int32)
        self._stamp = np.zeros(blocks * self.stride, np.int32)
        self._count = 0

    def offsets(self, address: Array, block: Array, width: int, what: str) -> Array:
        at = address.astype(i8) - SHARED_BASE
        bad = (at < 0) | (at > self.size - width) | (at % width != 0)
        if bad.any():
            self.report(
                "shared out of bounds or misaligned",
                f"{what}: {at[bad][0]} of {self.size}, {width} bytes, {bad.sum()} threads",
            )
            # Redirect them behind the end, so that they cause no further finding.
            spare = -(-self.size // 16) * 16 + np.arange(len(at)) % (GUARD // 16 - 1) * 16
            at = np.where(bad, spare, at)
        return at + block * self.stride

    def note(
        self, at: Array, width: int, thread: Array, sub: Array, data: Array | None, text: str
    ) -> None:
        self.accesses.append(Access(at, width, thread, sub, data, text))

    def barrier(self, released: Array | None, pending: list[Access]) -> None:
        """Find the races since the last barrier.

        released: bool by thread block, None for all
        pending: asynchronous accesses that have not ended; they count in every interval
        """
        if released is None:
            ended, self.accesses = self.accesses, []
        else:
            ended, kept = [], []
            for access in self.accesses:
                mine = released[access.at // self.stride]
                ended.append(_part(access, mine))
                kept.append(_part(access, ~mine))
            self.accesses = [access for access in kept if len(access.at)]
            pending = [_part(access, released[access.at // self.stride]) for access in pending]
        self._look(ended + pending)

    def _look(self, accesses: list[Access]) -> None:
        accesses = [access for access in accesses if len(access.at)]
        if not any(access.data is not None for access in accesses):
            return
        grain = min(access.width for access in accesses)
        self._count += 1
        expanded = []
        for access in accesses:
            steps = np.arange(access.width // grain)
            where = ((access.at // grain)[:, None] + steps).reshape(-1)
            expanded.append((where, np.repeat(access.thread, len(steps))))
        writes = [
            e for e, access in zip(expanded, accesses, strict=True) if access.data is not None
        ]
        for where, thread in writes:
            self._owner[where] = thread
            self._stamp[where] = self._count
        suspects = [
            where[(self._stamp[where] == self._count) & (self._owner[where] != thread)]
            for where, thread in expanded
        ]
        found = np.unique(np.concatenate(suspects))
        if len(found):
            self._explain(accesses, expanded, grain, found)

    def _explain(
        self,
        accesses: list[Access],
        expanded: list[tuple[Array, Array]],
        grain: int,
        found: Array,
    ) -> None:
        """Report races of two warps, and of two threads between barriers of their warp."""
        suspect = np.zeros(len(self._stamp) // grain, bool)
        suspect[found] = True
        rows = []
        for number, (access, (where, thread)) in enumerate(zip(accesses, expanded, strict=True)):
            keep = suspect[where]
            if keep.any():
                each = access.width // grain
                sub = np.repeat(access.sub, each)[keep]
                wrote = access.data is not None
                value = np.zeros(keep.sum(), u8)
                if wrote:
                    for byte in range(grain):
                        part = access.data.reshape(-1, grain)[keep][:, byte].astype(u8)
                        value |= part << u8(8 * byte)
                columns = (where[keep], thread[keep].astype(i8), sub.astype(i8), value)
                rows.append((*columns, np.full(keep.sum(), wrote), np.full(keep.sum(), number)))
        where, thread, sub, value, wrote, number = (
            np.concatenate(c) for c in zip(*rows, strict=True)
        )
        for within_warp in (False, True):
            if within_warp:
                key = (where * 2**20 + thread // 32) * 2**20 + sub
                who = thread
            else:
                key, who = where, thread // 32
            order = np.lexsort((who, key))
            racing = _racing(key[order], who[order], value[order], wrote[order])
            if racing is not None:
                _, same, first, last = racing
                texts = sorted({accesses[number[order[i]]].text for i in range(first, last)})
                at = where[order[first]] * grain
                threads = np.unique(thread[order[first:last]])[:4].tolist()
                self.report(
                    "same value written twice" if same else "race",
                    f"shared {at % self.stride} of block {at // self.stride}, "
                    f"{'threads of a warp' if within_warp else 'warps'}, threads {threads}: "
                    + " | ".join(texts[:4]),
                )


def _racing(key: Array, who: Array, value: Array, wrote: Array):
    """Find the worst group of equal keys with a race: (groups, same value, first, last)."""
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    ends = np.r_[starts[1:], len(key)]
    several = who[starts] != who[ends - 1]  # `who` is sorted within a group
    written = np.maximum.reduceat(wrote, starts)
    groups = np.flatnonzero(several & written)
    if not len(groups):
        return None
    benign = None
    for group in groups:
        part = slice(starts[group], ends[group])
        same = bool(wrote[part].all()) and len(np.unique(value[part])) == 1
        if not same:
            return len(groups), False, starts[group], ends[group]
        benign = group
    return len(groups), True, starts[benign], ends[benign]


def _part(access: Access, keep: Array) -> Access:
    data = None if access.data is None else access.data[keep]
    kept = (access.at[keep], access.width, access.thread[keep], access.sub[keep])
    return Access(*kept, data, access.text)
