# SPDX-License-Identifier: Apache-2.0
"""Choose experts within a program: top-k, softmax over the chosen, per-expert scale.

An expert is one int64: its logit's bits, mapped to integers of the same order, above its id counted
from the end. The largest int64 is the best expert, and among equal logits the one of lowest id. All
are distinct, so removing the largest removes one expert.
"""

from __future__ import annotations

import triton
import triton.language as tl

MAX_EXPERTS = 1024

_NAN_BITS = tl.constexpr(0x7FFFFFFF)
_TAKEN = tl.constexpr(-(1 << 63))


@triton.jit
def _ordered(logits):
    """Map fp32 to int32 of the same order: -0 equals 0, and every NaN is above +inf."""
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
    """Choose from logits fp32 [BLOCK_T, BLOCK_E]: weights fp32, ids int32, [BLOCK_T, BLOCK_K].

    Logits beyond expert E are ignored; slots from K on are undefined. A row whose best logit is
    NaN, +inf or -inf gets NaN weights, as its softmax is NaN, and distinct ids in range.
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
