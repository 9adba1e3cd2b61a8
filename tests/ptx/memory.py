# SPDX-License-Identifier: Apache-2.0
"""Model memory with a state for each byte, and global memory of separate extents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .values import Array, i8, u1, u2, u4, u8

VIEWS = {1: u1, 2: u2, 4: u4, 8: u8}
GLOBAL_BASE = 0x7F00_0000_0000
# Distance between the addresses of two extents, in bytes.
SPACING_BITS = 36
SPACING = 1 << SPACING_BITS
SHARED_BASE = 1024  # sm_90 reserves the first KB; this is aligned for any swizzle
GUARD = 512
ABSENT, ALLOCATED, PENDING, WRITTEN = 0, 1, 2, 3
POISON = 0xFF  # NaN in every float format

Report = Callable[[str, str], None]


class Bytes:
    """Hold bytes and the state of each, accessed at arrays of aligned offsets."""

    def __init__(self, size: int):
        size = -(-size // 16) * 16
        self.data = np.full(size, POISON, u1)
        self.state = np.zeros(size, u1)
        self._data = {w: self.data.view(VIEWS[w]) for w in (1, 2, 4, 8)}
        self._state = {w: self.state.view(VIEWS[w]) for w in (1, 2, 4, 8)}
        self._data[16] = self.data.view(u8).reshape(-1, 2)
        self._state[16] = self.state.view(u8).reshape(-1, 2)

    def read(self, at: Array, width: int) -> Array:
        """Read [n, width] bytes."""
        return self._data[width][at // width].view(u1).reshape(-1, width)

    def write(self, at: Array, width: int, data: Array) -> None:
        kind = VIEWS[min(width, 8)]
        values = np.ascontiguousarray(data).view(kind)
        self._data[width][at // width] = values if width == 16 else values.reshape(-1)

    def mark(self, at: Array, width: int, state: int) -> None:
        self._state[width][at // width] = _repeat(state, width)

    def all_are(self, at: Array, width: int, state: int) -> Array:
        """Return bool [n]: the state of every byte of the access has the bits of `state`."""
        found = self._state[width][at // width]
        wanted = _repeat(state, width)
        same = (found & wanted) == wanted
        return same.all(axis=1) if width == 16 else same


def _repeat(state: int, width: int) -> np.generic:
    kind = VIEWS[min(width, 8)]
    return kind(int.from_bytes(bytes([state]) * min(width, 8), "little"))


@dataclass(frozen=True)
class Extent:
    """Hold one allocation. valid: bool per byte, may be accessed. initialised: bool per byte."""

    name: str
    data: Array
    valid: Array
    initialised: Array


class GlobalMemory:
    """Place extents so far apart that an access beyond one never lands in another."""

    def __init__(self, extents: list[Extent], report: Report):
        self.report = report
        self.extents = extents
        sizes = [len(extent.data) for extent in extents]
        rounded = [0, *(-(-size // GUARD) * GUARD for size in sizes)]
        # Where each extent starts in `bytes`, and its length.
        self.starts, self.sizes = np.cumsum(rounded, dtype=i8), np.array(sizes, i8)
        self.bytes = Bytes(int(self.starts[-1]))
        for start, extent in zip(self.starts, extents, strict=False):
            part = slice(start, start + len(extent.data))
            self.bytes.data[part] = extent.data
            self.bytes.state[part] = np.where(
                extent.valid, np.where(extent.initialised, WRITTEN, ALLOCATED), ABSENT
            )

    def address(self, extent: int, offset: int) -> int:
        return GLOBAL_BASE + extent * SPACING + offset

    def copy_back(self) -> None:
        """Copy data and initialised bytes back to the arrays of the extents."""
        for start, extent in zip(self.starts, self.extents, strict=False):
            part = slice(start, start + len(extent.data))
            extent.data[:] = self.bytes.data[part]
            extent.initialised[:] = self.bytes.state[part] == WRITTEN

    def offsets(self, address: Array, width: int, what: str) -> tuple[Array, Array | None]:
        """Check addresses; return offsets in `bytes` and which are valid (None: all)."""
        at = (address - u8(GLOBAL_BASE)).view(i8)
        number, within = at >> SPACING_BITS, at & (SPACING - 1)
        good = (number >= 0) & (number < len(self.extents))
        number = np.where(good, number, 0)
        good &= within <= self.sizes[number] - width
        aligned = (within % width) == 0
        if not aligned.all():
            where = self._place(address[~aligned][0])
            self.report("misaligned", f"{what}: {where}, {width} bytes")
            good &= aligned
        at = np.where(good, self.starts[number] + within, 0)
        good[good] = self.bytes.all_are(at[good], width, ALLOCATED)
        if good.all():
            return at, None
        bad = ~good & aligned
        if bad.any():
            where = self._place(address[bad][0])
            self.report("out of bounds", f"{what}: {where}, {width} bytes, {bad.sum()} threads")
        return np.where(good, at, 0), good

    def _place(self, address: int) -> str:
        number, within = divmod(int(address) - GLOBAL_BASE, SPACING)
        if within > SPACING // 2:  # before an extent
            number, within = number + 1, within - SPACING
        if not 0 <= number < len(self.extents):
            return f"address {int(address):#x}"
        return f"{self.extents[number].name}{within:+d} of {self.sizes[number]}"

    def name(self, at: int) -> str:
        """Describe an offset in `bytes` by its extent."""
        number = int(np.searchsorted(self.starts, at, side="right")) - 1
        return f"{self.extents[number].name}+{at - self.starts[number]} of {self.sizes[number]}"
