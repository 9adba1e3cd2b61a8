# SPDX-License-Identifier: Apache-2.0
"""Multiply by a tile of cached keys or values, in BF16 or in bytes of E4M3, for all attention.

A cache of E4M3 is read without an FP8 type, so that every GPU since compute capability 8.0 has it.
The magnitude of an E4M3 at bits 7 to 13 of an FP16 is its value times 2^-8, exactly, subnormal
values included. The two NaN bytes become FP16's NaN.

Two neighbouring bytes are one element of 16 bits, and the even and the odd dimensions are two dots.
Shared memory then moves pairs of bytes as it moves BF16, by ldmatrix, transposed for values.

FP16 has three more bits of precision than BF16. Queries of BF16 are divided by a power of two per
row, so that they lie in FP16's range; softmax weights lie in [0, 1].
"""

from __future__ import annotations

import triton
import triton.language as tl

# Scores are kept times log2(e), for exp2.
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# What the bits of an E4M3 in an FP16 lack.
E4M3_FACTOR = tl.constexpr(256.0)

# Decode two pairs of bytes to the two FP16 of the low bytes and those of the high bytes. Adding
# 0x80 to a magnitude carries into bit 14 only for NaN, and then completes the exponent.
_DECODE_ONE = """
and.b32 t, t, 0x3f803f80;
add.u32 u, t, 0x00800080;
and.b32 u, u, 0x40004000;
or.b32 t, t, u;
and.b32 s, s, 0x80008000;
or.b32 {out}, s, t;
"""
DECODE_PTX = tl.constexpr(
    "{\n.reg .b32 s, t, u;\nshl.b32 t, $2, 7;\nshl.b32 s, $2, 8;"
    + _DECODE_ONE.format(out="$0")
    + "shr.b32 t, $2, 1;\nmov.b32 s, $2;"
    + _DECODE_ONE.format(out="$1")
    + "}"
)


@triton.jit
def _e4m3_bits(sign, magnitude):
    """Return fp16 of a sign at bit 15 and a magnitude at bits 7 to 13, among other bits."""
    magnitude &= 0x3F80
    bits = (sign & 0x8000) | magnitude | ((magnitude + 0x80) & 0x4000)
    return bits.to(tl.float16, bitcast=True)


@triton.jit
def decode_e4m3(pairs, PLAIN: tl.constexpr):
    """Decode int16 [..], two bytes of E4M3 each, to fp16 [..] of the low and of the high bytes.

    Both are values times 2^-8. PLAIN: use plain expressions; Triton's interpreter has no inline
    assembly.
    """
    if PLAIN:
        wide = pairs.to(tl.uint16, bitcast=True)
        return _e4m3_bits(wide << 8, wide << 7), _e4m3_bits(wide, wide >> 1)
    else:
        return tl.inline_asm_elementwise(
            DECODE_PTX,
            "=&r,=&r,r",
            [pairs],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=2,
        )


@triton.jit
def row_powers(q):
    """Return fp32 [M]: for each row of q the power of two at most its largest magnitude."""
    largest = tl.max(tl.abs(q.to(tl.float32)), 1)
    bits = largest.to(tl.int32, bitcast=True) & 0x7F800000
    # Zero and subnormal rows, and those with infinities, stay as they are.
    usable = (bits > 0) & (bits < 0x7F800000)
    return tl.where(usable, bits, 0x3F800000).to(tl.float32, bitcast=True)


@triton.jit
def for_cache(q, HEAD_DIM: tl.constexpr, E4M3: tl.constexpr):
    """Prepare q [M, D] for its dots with the cache.

    Returns the two operands of `scores_of`, and fp32 [M]: the factor that the scores lack.
    """
    if E4M3:
        power = tl.full([q.shape[0]], 1.0, tl.float32)
        if q.dtype == tl.float32:
            half = q
        else:
            power = row_powers(q)
            half = (q.to(tl.float32) / power[:, None]).to(tl.float16)
        even, odd = tl.split(half.reshape(q.shape[0], HEAD_DIM // 2, 2))
        return even, odd, power * E4M3_FACTOR
    else:
        return q, q, tl.full([q.shape[0]], 1.0, tl.float32)


@triton.jit
def _read(rows, mask, WIDTH: tl.constexpr):
    """Read [N, WIDTH] from pointers [N]; rows where mask [N] is false are zero and not read."""
    return tl.load(rows[:, None] + tl.arange(0, WIDTH)[None, :], mask=mask[:, None], other=0)


@triton.jit
def scores_of(
    q_even, q_odd, rows, mask, HEAD_DIM: tl.constexpr, E4M3: tl.constexpr, PLAIN: tl.constexpr
):
    """Compute fp32 [M, N]: queries times a tile of keys, whose rows are at pointers [N]."""
    if E4M3:
        even, odd = decode_e4m3(_read(rows, mask, HEAD_DIM // 2), PLAIN)
        scores = tl.dot(q_even, tl.trans(even.to(q_even.dtype)), input_precision="ieee")
        return tl.dot(q_odd, tl.trans(odd.to(q_odd.dtype)), scores, input_precision="ieee")
    else:
        keys = _read(rows, mask, HEAD_DIM)
        return tl.dot(q_even, tl.trans(keys), input_precision="ieee")


@triton.jit
def add_values(
    weights,
    acc_even,
    acc_odd,
    rows,
    mask,
    HEAD_DIM: tl.constexpr,
    E4M3: tl.constexpr,
    PLAIN: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Add weights fp32 [M, N] times a tile of values, whose rows are at pointers [N].

    acc_even, acc_odd: fp32 [M, D / 2]; without E4M3, acc_even is [M, D] and acc_odd unused
    DTYPE: of the operands
    """
    if E4M3:
        even, odd = decode_e4m3(_read(rows, mask, HEAD_DIM // 2), PLAIN)
        weights = weights.to(DTYPE)
        acc_even = tl.dot(weights, even.to(DTYPE), acc_even, input_precision="ieee")
        acc_odd = tl.dot(weights, odd.to(DTYPE), acc_odd, input_precision="ieee")
    else:
        values = _read(rows, mask, HEAD_DIM)
        acc_even = tl.dot(weights.to(values.dtype), values, acc_even, input_precision="ieee")
    return acc_even, acc_odd


@triton.jit
def values_of(rows, mask, HEAD_DIM: tl.constexpr, E4M3: tl.constexpr, PLAIN: tl.constexpr):
    """Read values [N, D] at pointers [N], in the order of dimensions; E4M3 as fp16 times 2^-8.

    `add_values` is cheaper where few queries share a tile: this one writes it to shared memory
    again.
    """
    if E4M3:
        even, odd = decode_e4m3(_read(rows, mask, HEAD_DIM // 2), PLAIN)
        return tl.join(even, odd).reshape(rows.shape[0], HEAD_DIM)
    else:
        return _read(rows, mask, HEAD_DIM)


@triton.jit
def empty_sums(M: tl.constexpr, HEAD_DIM: tl.constexpr, E4M3: tl.constexpr):
    """Return zero sums for `add_values`, acc_even and acc_odd."""
    if E4M3:
        return tl.zeros([M, HEAD_DIM // 2], tl.float32), tl.zeros([M, HEAD_DIM // 2], tl.float32)
    else:
        return tl.zeros([M, HEAD_DIM], tl.float32), tl.zeros([M, 1], tl.float32)


@triton.jit
def whole(acc_even, acc_odd, HEAD_DIM: tl.constexpr, E4M3: tl.constexpr):
    """Return fp32 [M, D] in the order of dimensions."""
    if E4M3:
        return tl.join(acc_even, acc_odd).reshape(acc_even.shape[0], HEAD_DIM)
    else:
        return acc_even


@triton.jit
def capped(scores, LOGIT_CAP: tl.constexpr):
    """Bound scores, which are times log2(e), to LOGIT_CAP by a tanh; 0 leaves them."""
    if LOGIT_CAP > 0:
        scores = scores * (2.0 * LN_2 / LOGIT_CAP)
        scores = (LOGIT_CAP * LOG2_E) * (2.0 * tl.sigmoid(scores) - 1.0)
    return scores


@triton.jit
def weigh(scores, visible, total, largest):
    """Take a tile's scores into the running softmax.

    scores: fp32 [M, N], times log2(e); visible: bool [M, N] or [1, N]
    total, largest: fp32 [M], the sum of exponentials over 2^largest, and the largest score
    Returns weights fp32 [M, N], the factor [M] that keeps earlier sums, total and largest. A row
    that has seen no key has a largest of -inf.
    """
    scores = tl.where(visible, scores, float("-inf"))
    higher = tl.maximum(largest, tl.max(scores, 1))
    # A row without keys: any finite number keeps exp2 from NaN.
    base = tl.where(higher == float("-inf"), 0.0, higher)
    kept = tl.exp2(largest - base)
    weights = tl.exp2(scores - base[:, None])
    return weights, kept, total * kept + tl.sum(weights, 1), higher
