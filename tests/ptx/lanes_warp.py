# SPDX-License-Identifier: Apache-2.0
"""Execute instructions of whole warps and warp groups."""

from __future__ import annotations

import numpy as np

from . import tensor_core, values
from .shared_memory import Access
from .values import Array, i8, u1, u2, u4, u8

WARP = 32


def _chunks(descriptor: Array, n: int, trans: bool) -> Array:
    """Return shared addresses of b's 16-byte chunks, by the canonical layouts of wgmma.

    descriptor: uint64 [groups]
    Returns int64 [groups, N, 2], chunks of K; with trans [groups, 16, N / 8], chunks of N.
    """
    start = (descriptor & u8(0x3FFF)).astype(i8) * 16
    leading, stride = (((descriptor >> u8(at)) & u8(0x3FFF)).astype(i8) * 16 for at in (16, 32))
    swizzle = int(descriptor[0] >> u8(62))
    row = {1: 128, 2: 64, 3: 32}[swizzle]
    rows = np.arange(16 if trans else n)
    part = np.arange(n // 8 if trans else 2) * 16
    at = (start[:, None] + stride[:, None] * (rows // 8) + rows % 8 * row)[:, :, None]
    # Beyond a row of the swizzle, N goes on `leading` bytes later.
    at = at + (leading[:, None, None] * (part // row) + part % row if trans else part)
    bits = {1: 7, 2: 3, 3: 1}[swizzle]
    return at ^ (at >> 7 & bits) << 4


class WarpInstructions:
    """Provide the methods of `Lanes` for warps: barriers, shuffles, matrices, wgmma."""

    def whole_warps(self, index: int) -> None:
        if self.n == self.batch.count:
            return
        first = self.index[::WARP]
        if (
            self.n % WARP
            or (first % WARP).any()
            or not np.array_equal(self.index.reshape(-1, WARP), first[:, None] + np.arange(WARP))
        ):
            self.batch.report("part of a warp at a warp's instruction", self.where(index))
            raise RuntimeError(self.where(index))

    def warp_barrier(self, index: int) -> None:
        self.whole_warps(index)
        self.batch.sub[self.index[::WARP] // WARP] += 1

    def shuffle(self, index: int, mode: str, a: Array, b: Array, c: Array, mask: Array):
        self.whole_warps(index)
        lane = self.thread % u4(WARP)
        source, inside = values.shuffle_source(mode, lane, np.broadcast_to(b, self.n), c)
        return a[np.arange(self.n) // WARP * WARP + source], inside

    def vote(self, index: int, mode: str, p: Array) -> Array:
        self.whole_warps(index)
        rows = p.reshape(-1, WARP)
        if mode == "ballot":
            bits = (rows.astype(u8) << np.arange(WARP, dtype=u8)).sum(axis=1).astype(u4)
            return np.repeat(bits, WARP)
        found = {"any": rows.any(axis=1), "all": rows.all(axis=1)}[mode]
        return np.repeat(found, WARP)

    def redux(self, index: int, action: str, a: Array) -> Array:
        self.whole_warps(index)
        rows = a.reshape(-1, WARP)
        ufunc = {
            "add": np.add,
            "min": np.minimum,
            "max": np.maximum,
            "and": np.bitwise_and,
            "or": np.bitwise_or,
            "xor": np.bitwise_xor,
        }[action]
        return np.repeat(ufunc.reduce(rows, axis=1, dtype=a.dtype), WARP)

    def load_matrix(self, index: int, address: Array, count: int, trans: bool) -> list[Array]:
        """Execute ldmatrix; thread 8 i + r gives the address of row r of matrix i."""
        self.whole_warps(index)
        picked = np.flatnonzero(self.thread % u4(WARP) < 8 * count)
        at, thread = self._shared(index, address, 16, picked)
        self._check_shared(index, at, 16)
        self._note(index, at, 16, thread, None)
        rows = np.ascontiguousarray(self.batch.shared.bytes.read(at, 16))
        if trans:
            cells = rows.view(u2).reshape(-1, count, 8, 8).transpose(0, 1, 3, 2)
            words = np.ascontiguousarray(cells).view(u4).reshape(-1, count, WARP)
        else:
            words = rows.view(u4).reshape(-1, count, WARP)
        return [np.ascontiguousarray(words[:, i]).reshape(-1) for i in range(count)]

    def store_matrix(self, index: int, address: Array, what: list[Array], trans: bool) -> None:
        self.whole_warps(index)
        count = len(what)
        words = np.stack([np.broadcast_to(w, self.n).reshape(-1, WARP) for w in what], axis=1)
        rows = np.ascontiguousarray(words)
        if trans:
            cells = rows.view(u2).reshape(-1, count, 8, 8).transpose(0, 1, 3, 2)
            rows = np.ascontiguousarray(cells)
        picked = np.flatnonzero(self.thread % u4(WARP) < 8 * count)
        at, thread = self._shared(index, address, 16, picked)
        self._put(index, at, 16, thread, rows.view(u1).reshape(-1, 16))

    # wgmma

    def wgmma(
        self,
        index: int,
        c: list[Array],
        a: list[Array] | Array,
        descriptor: Array,
        keep: Array,
        n: int,
        bf16: bool,
        trans: bool,
    ) -> list[Array]:
        """Execute m64nNk16: b [N, 16] in shared memory, with K contiguous or, with `trans`, N.

        a: registers, or the descriptor of [64, 16] in shared memory with K contiguous
        """
        self.whole_warps(index)
        if self.n % 128:
            raise RuntimeError(f"part of a warp group: {self.where(index)}")
        if isinstance(a, list):
            left = tensor_core.wgmma_left(a, bf16)
        else:
            left = self._shared_operand(index, a, 64, bf16, False)
        b = self._shared_operand(index, descriptor, n, bf16, trans)
        if keep.any() != keep.all():
            raise RuntimeError(f"scale-d differs: {self.where(index)}")
        return tensor_core.wgmma_accumulate(left, b, c, bool(keep.all()))

    def _shared_operand(
        self, index: int, descriptor: Array, n: int, bf16: bool, trans: bool
    ) -> Array:
        """Read an operand of a wgmma under way: float64 [groups, N, 16]."""
        first = descriptor[::128]
        if not (descriptor.reshape(-1, 128) == first[:, None]).all():
            self.batch.report("descriptor differs within a warp group", self.where(index))
        at = _chunks(first, n, trans)
        batch = self.batch
        slot = self.slot[::128]
        flat = batch.shared.offsets(
            at.reshape(-1).astype(u4), np.repeat(slot, n * 2), 16, self.where(index)
        )
        self._check_shared(index, flat, 16)
        group = self.index[::128]
        thread = np.repeat(-1 - group, n * 2)  # conflicts with every thread's writes
        access = Access(flat, 16, thread, np.zeros(len(flat), i8), None, self.where(index))
        batch.shared.accesses.append(access)
        batch.wgmmas.append(
            (access, np.repeat(group, n * 2), np.repeat(batch.wgmma_groups[group], n * 2))
        )
        if batch.unfenced:
            touched = np.zeros(len(batch.shared.bytes.data), bool)
            touched[(flat[:, None] + np.arange(16)).reshape(-1)] = True
            if any(touched[where].any() for where, _ in batch.unfenced):
                batch.report(
                    "wgmma reads what no fence.proxy.async made visible", self.where(index)
                )
        width = 2 * n if trans else 32
        data = batch.shared.bytes.read(flat, 16).reshape(len(group), -1, width)
        half = np.ascontiguousarray(data).view(u2)
        found = (values.f4_of_bf2(half) if bf16 else half.view(values.f2)).astype(values.f8)
        return found.transpose(0, 2, 1) if trans else found

    def wgmma_commit(self) -> None:
        self.batch.wgmma_groups[self.index] += 1

    def wgmma_wait(self, left: int) -> None:
        batch = self.batch
        here = np.zeros(batch.count, bool)
        here[self.index] = True
        kept = []
        for access, owner, group in batch.wgmmas:
            over = here[owner] & (group < batch.wgmma_groups[owner] - left)
            batch.shared.note(
                access.at[over], 16, access.thread[over], access.sub[over], None, access.text
            )
            stay = ~over
            if stay.any():
                rest = Access(
                    access.at[stay], 16, access.thread[stay], access.sub[stay], None, access.text
                )
                kept.append((rest, owner[stay], group[stay]))
        batch.wgmmas = kept
