# SPDX-License-Identifier: Apache-2.0
"""The choice of experts within a program: top-k, softmax over the chosen, per-expert scale.

An expert's logit and id are one int64: the logit's bits, made to order as integers, above the id
counted from the end, so that the largest of them is the best expert and, among equals, the one of
the lowest id. No two are alike, so taking the largest away takes exactly one.
"""

from __future__ import annotations

import triton
import triton.language as tl

MAX_EXPERTS = 1024

_NAN_BITS = tl.constexpr(0x7FFFFFFF)
_TAKEN = tl.constexpr(-(1 << 63))


@triton.jit
def _ordered(logits):
    """fp32 -> int32 in the same order: -0 is 0, and a NaN of either sign is above +inf."""
    bits = logits.to(tl.int32, bitcast=True)
    bits = tl.where(logits == 0.0, 0, bits)
    bits = tl.where(logits != logits, _NAN_BITS, bits)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def choose_experts(
    logits,
    expert_scale_ptr,
    E: tl.constexpr,
    K: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """logits fp32 [BLOCK_T, BLOCK_E] -> weights fp32 and ids int32, [BLOCK_T, BLOCK_K] each.

    What is read beyond expert E does not count; slots from K on hold nothing of use. A row whose
    best logit is NaN, +inf or -inf has NaN weights, as a softmax over it has; its ids are ids.
    """
    expert = tl.arange(0, BLOCK_E)[None, :]
    slot = tl.arange(0, BLOCK_K)[None, :]
    left = (_ordered(logits).to(tl.int64) << 32) | (BLOCK_E - 1 - expert).to(tl.int64)
    left = tl.where(expert < E, left, _TAKEN)
    chosen = tl.zeros([BLOCK_T, BLOCK_K], tl.int64)
    for i in range(K):
        best = tl.max(left, axis=1)[:, None]
        chosen = tl.where(slot == i, best, chosen)
        left = tl.where(left == best, _TAKEN, left)
    ids = BLOCK_E - 1 - (chosen & 0xFFFFFFFF).to(tl.int32)
    bits = (chosen >> 32).to(tl.int32)
    values = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    values = tl.where(slot < K, values, -float("inf"))
    powers = tl.where(slot < K, tl.exp(values - tl.max(values, axis=1)[:, None]), 0.0)
    weights = powers / tl.sum(powers, axis=1)[:, None]
    scale = tl.load(expert_scale_ptr + ids, mask=(slot < K) & (ids >= 0), other=0.0)
    return weights * scale.to(tl.float32), ids
