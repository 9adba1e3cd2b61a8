# SPDX-License-Identifier: Apache-2.0
"""Compute single instructions on numpy arrays with one element per thread.

Registers are unsigned integers of their width; floating point is a view of them. Rounding is to
nearest even and subnormals are kept, unless a name says otherwise.
"""

from __future__ import annotations

import numpy as np

u1, u2, u4, u8 = np.uint8, np.uint16, np.uint32, np.uint64
i1, i2, i4, i8 = np.int8, np.int16, np.int32, np.int64
f2, f4, f8 = np.float16, np.float32, np.float64
Array = np.ndarray

_NAN = {u2: u2(0x7FFF), u4: u4(0x7FFFFFFF)}


def canonical(x: Array) -> Array:
    """Return the bits of a float result, with PTX's canonical NaN for every NaN."""
    bits = x.view({2: u2, 4: u4}[x.dtype.itemsize])
    nan = np.isnan(x)
    return np.where(nan, _NAN[bits.dtype.type], bits) if nan.any() else bits


def flush(x: Array) -> Array:
    """Replace float32 subnormals by zeros of their sign (.ftz)."""
    return np.where(np.abs(x) < np.finfo(f4).tiny, np.copysign(f4(0), x), x)


def f2_of(x: Array) -> Array:
    """Convert float32 or float64 to bits of FP16."""
    return canonical(x.astype(f2))


def bf2_of(x: Array) -> Array:
    """Convert float32 to bits of BF16."""
    bits = x.view(u4)
    rounded = ((bits + u4(0x7FFF) + ((bits >> u4(16)) & u4(1))) >> u4(16)).astype(u2)
    return np.where(np.isnan(x), u2(0x7FFF), rounded)


def f4_of_bf2(bits: Array) -> Array:
    return (bits.astype(u4) << u4(16)).view(f4)


def pack(low: Array, high: Array) -> Array:
    """Pack two 16-bit values into one of 32 bits."""
    return low.astype(u4) | (high.astype(u4) << u4(16))


def join(low: Array, high: Array) -> Array:
    """Join two 32-bit values to one of 64 bits."""
    return low.astype(u8) | (high.astype(u8) << u8(32))


def fma(a: Array, b: Array, c: Array) -> Array:
    """Compute a b + c as float64, rounded to odd.

    Another rounding to 32 bits or fewer is then correct.

    a, b, c: float16 or float32
    """
    product = a.astype(f8) * b.astype(f8)  # exact: 48 bits at most
    c = c.astype(f8)
    total = product + c
    back = total - product
    lost = (product - (total - back)) + (c - back)
    bits = total.view(i8)
    odd = bits + np.where((lost > 0) == (total > 0), i8(1), i8(-1))
    inexact = (lost != 0) & np.isfinite(lost) & ((bits & i8(1)) == 0)
    return np.where(inexact, odd, bits).view(f8)


def fma_f4(a: Array, b: Array, c: Array) -> Array:
    return canonical(fma(a, b, c).astype(f4))


def fma_f2(a: Array, b: Array, c: Array) -> Array:
    return canonical(fma(a, b, c).astype(f2))


def add_bf2x2(a: Array, b: Array) -> Array:
    """Add the two BF16 halves of uint32 words, each rounded once."""
    halves = (f4_of_bf2(x.view(u2)) for x in (a, b))
    return np.ascontiguousarray(bf2_of(next(halves) + next(halves))).view(u4)


def fma_bf2(a: Array, b: Array, c: Array) -> Array:
    """Compute bits of BF16 from BF16 held as float32."""
    return bf2_of(odd_f4(fma(a, b, c)))


def odd_f4(x: Array) -> Array:
    """Convert float64 to float32, rounded to odd."""
    y = x.astype(f4)
    bits = y.view(i4)
    step = np.where((x > y.astype(f8)) == ~np.signbit(y), i4(1), i4(-1))
    inexact = (x != y.astype(f8)) & np.isfinite(x) & ((bits & 1) == 0)
    return np.where(inexact, bits + step, bits).view(f4)


def divide(a: Array, b: Array) -> Array:
    """Divide integers, towards zero."""
    if a.dtype.kind == "u":
        return a // b
    size = np.abs(a.astype(i8)) // np.abs(b.astype(i8))
    return np.where((a < 0) != (b < 0), -size, size).astype(a.dtype)


def remainder(a: Array, b: Array) -> Array:
    return a - divide(a, b) * b


def bfe(a: Array, position: Array, length: Array, signed: bool) -> Array:
    """Extract a bit field of 32-bit a."""
    position = np.asarray(position, i8) & 0xFF
    length = np.asarray(length, i8) & 0xFF
    wide = (a.view(i4) if signed else a).astype(i8)
    length = np.minimum(length, 63)
    # Bits above 31 are the sign's or zeros, as in the 64-bit value.
    field = (wide >> np.minimum(position, 63)) & ((i8(1) << length) - 1)
    if signed:
        top = np.minimum(position + length - 1, 31)
        negative = ((wide >> np.maximum(top, 0)) & 1).astype(bool) & (length > 0)
        field = np.where(negative, field | (i8(-1) << length), field)
    return (field & 0xFFFFFFFF).astype(u4)


def bfi(a: Array, b: Array, position: Array, length: Array) -> Array:
    """Return b with `length` bits of a at `position`."""
    position = np.asarray(position, u8) & u8(0xFF)
    length = np.minimum(np.asarray(length, u8) & u8(0xFF), u8(32))
    mask = ((u8(1) << length) - u8(1)) << np.minimum(position, u8(32))
    moved = a.astype(u8) << np.minimum(position, u8(32))
    return ((b.astype(u8) & ~mask) | (moved & mask)).astype(u4)


def prmt(a: Array, b: Array, selector: Array) -> Array:
    """Choose four bytes from b:a; a nibble's top bit asks for the byte's sign instead."""
    selector = np.asarray(selector, u4)
    if selector.ndim == 0 and not selector & u4(0x8888):
        return _choose_bytes(np.asarray(a, u4), np.asarray(b, u4), int(selector))
    pool = join(np.asarray(a, u4), np.asarray(b, u4))
    out = u4(0)
    for i in range(4):
        nibble = (selector >> u4(4 * i)) & u4(0xF)
        byte = (pool >> ((nibble & u4(7)).astype(u8) * u8(8))).astype(u4) & u4(0xFF)
        sign = np.where(byte >> u4(7), u4(0xFF), u4(0))
        out = out | (np.where(nibble & u4(8), sign, byte) << u4(8 * i))
    return out


def _choose_bytes(a: Array, b: Array, selector: int) -> Array:
    out = u4(0)
    for i in range(4):
        which = selector >> 4 * i & 7
        source, byte = (a, which) if which < 4 else (b, which - 4)
        if source.ndim == 0 and source == 0:
            continue
        by = u4(8 * abs(byte - i))
        moved = source << by if byte < i else source >> by
        out = out | (moved & u4(0xFF << 8 * i))
    return out


def lop3(a: Array, b: Array, c: Array, table: int) -> Array:
    out = u4(0)
    for i in range(8):
        if table >> i & 1:
            out = out | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return out


def funnel(a: Array, b: Array, count: Array, left: bool, wrap: bool) -> Array:
    """Execute shf: the upper (left) or lower (right) word of b:a, shifted."""
    count = np.asarray(count, u4)
    count = (count & u4(31) if wrap else np.minimum(count, u4(32))).astype(u8)
    both = join(a, b)
    return ((both << count) >> u8(32) if left else both >> count).astype(u4)


def shift_left(a: Array, count: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    count = np.minimum(np.asarray(count, u4), u4(bits)).astype(a.dtype)
    return np.where(count >= bits, a.dtype.type(0), a << np.minimum(count, bits - 1))


def shift_right(a: Array, count: Array) -> Array:
    """Shift right; a is signed for an arithmetic shift."""
    bits = 8 * a.dtype.itemsize
    count = np.minimum(np.asarray(count, u4), u4(bits)).astype(a.dtype)
    if a.dtype.kind == "i":
        return a >> np.minimum(count, bits - 1).astype(a.dtype)
    return np.where(count >= bits, a.dtype.type(0), a >> np.minimum(count, bits - 1))


def popc(a: Array) -> Array:
    return np.bitwise_count(a).astype(u4)


def clz(a: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    exact = a.astype(f8) if bits == 32 else None
    if exact is None:
        high, low = clz((a >> u8(32)).astype(u4)), clz(a.astype(u4))
        return np.where(high == 32, u4(32) + low, high)
    return np.where(a == 0, u4(32), u4(31) - np.log2(np.maximum(exact, 1)).astype(u4))


def to_int(x: Array, kind: type, rounding: str) -> Array:
    """Convert float to integer, saturating; NaN is 0."""
    rounded = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[rounding](
        x.astype(f8)
    )
    info = np.iinfo(kind)
    low, high = float(info.min), float(info.max)
    inside = np.clip(np.nan_to_num(rounded, nan=0.0, posinf=high, neginf=low), low, high)
    out = (
        inside.astype(kind) if info.bits < 64 else np.where(inside >= high, 0, inside).astype(kind)
    )
    return np.where(inside >= high, kind(info.max), out) if info.bits == 64 else out


def minimum(a: Array, b: Array, propagate: bool) -> Array:
    """Compute min.f32 and, with NaN propagated, min.NaN.f32; -0 is below +0."""
    small = np.minimum(a, b) if propagate else np.fmin(a, b)
    zero = (a == 0) & (b == 0)
    return np.where(zero, np.where(np.signbit(a), a, b), small)


def maximum(a: Array, b: Array, propagate: bool) -> Array:
    large = np.maximum(a, b) if propagate else np.fmax(a, b)
    zero = (a == 0) & (b == 0)
    return np.where(zero, np.where(np.signbit(a), b, a), large)


def shuffle_source(mode: str, lane: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Return the lane that shfl.sync reads and whether it is in range, as in the PTX manual."""
    lane, b, c = (np.asarray(v).astype(i8) for v in (lane, b, c))
    step, clamp, segment = b & 31, c & 31, (c >> 8) & 31
    last = (lane & segment) | (clamp & ~segment)
    source = {
        "up": lane - step,
        "down": lane + step,
        "bfly": lane ^ step,
        "idx": (lane & segment) | (step & ~segment),
    }[mode]
    inside = source >= last if mode == "up" else source <= last
    return np.where(inside, source, lane), inside
