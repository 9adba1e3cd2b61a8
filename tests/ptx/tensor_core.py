# SPDX-License-Identifier: Apache-2.0
"""Compute mma.sync and wgmma: sums in float64, rounded to FP32."""

from __future__ import annotations

import numpy as np

from .values import Array, f2, f4, f4_of_bf2, f8, u2, u4

# How a tensor core adds. None: 16 exact products and the accumulator, rounded once to nearest. A
# number: 8 products at a time. Each summand is cut to that many bits below the largest one's
# highest bit, and the sum to 24 bits. No manual specifies it.
SUMMAND_BITS: int | None = None


def _add_products(left: Array, right: Array, start: Array) -> Array:
    """Return left [.., M, 16] times right [.., 16, N] plus start [.., M, N], in float64."""
    if SUMMAND_BITS is None:
        return np.matmul(left, right) + start
    total = start
    for part in (slice(0, 8), slice(8, 16)):
        terms = left[..., part, None] * right[..., None, part, :]
        terms = np.concatenate((terms, total[..., None, :]), axis=-2)
        top = np.frexp(np.abs(terms).max(axis=-2))[1]
        unit = np.ldexp(1.0, np.clip(top - SUMMAND_BITS, -1000, 1000))
        cut = np.trunc(terms / unit[..., None, :]) * unit[..., None, :]
        total = cut.sum(axis=-2)
        least = np.ldexp(1.0, np.frexp(total)[1] - 24)
        total = np.where(np.isfinite(total) & (total != 0), np.trunc(total / least) * least, total)
    return total


def mma_16x8x16(a: list[Array], b: list[Array], c: list[Array], bf16: bool) -> list[Array]:
    """Return the result registers of mma.sync m16n8k16 with FP32 sums, for whole warps."""
    warps = len(a[0]) // 32
    # Register i of a: row half i % 2, column half i // 2; lane 4 g + t: row g, columns 2 t, 2 t + 1
    left = _halves(a, bf16).reshape(2, 2, warps, 8, 4, 2).transpose(2, 1, 3, 0, 4, 5)
    right = _halves(b, bf16).reshape(2, warps, 8, 4, 2).transpose(1, 0, 3, 4, 2)
    with np.errstate(all="ignore"):
        start = np.stack([r.view(f4) for r in c]).reshape(2, 2, warps, 8, 4).astype(f8)
        start = start.transpose(2, 0, 3, 4, 1).reshape(warps, 16, 8)
        left, right = left.reshape(warps, 16, 16), right.reshape(warps, 16, 8)
        total = _add_products(left, right, start)
        out = total.astype(f4).reshape(warps, 2, 8, 4, 2).transpose(1, 4, 0, 2, 3)
    return list(np.ascontiguousarray(out).view(u4).reshape(4, -1))


def _halves(registers: list[Array], bf16: bool) -> Array:
    """Return [registers, threads, 2] as float64."""
    bits = np.ascontiguousarray(np.stack(registers)).view(u2)
    values = f4_of_bf2(bits) if bf16 else bits.view(f2)
    return values.astype(f8).reshape(len(registers), -1, 2)


def wgmma_left(a: list[Array], bf16: bool) -> Array:
    """Return the left operand of a wgmma that is in registers, as float64 [groups, 64, 16]."""
    groups = len(a[0]) // 128
    left = _halves(a, bf16).reshape(2, 2, 4 * groups, 8, 4, 2).transpose(2, 1, 3, 0, 4, 5)
    return left.reshape(groups, 64, 16)


def wgmma_accumulate(left: Array, b: Array, c: list[Array], keep: bool) -> list[Array]:
    """Return the result registers of wgmma m64nNk16.

    left: float64 [groups, 64, 16]; b: float64 [groups, N, 16]; c: registers that it adds to
    """
    groups, n, _ = b.shape
    with np.errstate(all="ignore"):
        start = np.zeros((groups, 64, n))
        # register 4 j + 2 h + p: column 8 j + 2 t + p, row 16 w + 8 h + g
        if keep:
            held = np.stack([r.view(f4) for r in c]).reshape(n // 8, 2, 2, groups, 4, 8, 4)
            start = held.transpose(3, 4, 1, 5, 0, 6, 2).reshape(groups, 64, n).astype(f8)
        total = _add_products(left, b.transpose(0, 2, 1), start)
        out = total.astype(f4).reshape(groups, 4, 2, 8, n // 8, 4, 2)
    out = np.ascontiguousarray(out.transpose(4, 2, 6, 0, 1, 3, 5))
    return list(out.view(u4).reshape(n // 2, -1))
