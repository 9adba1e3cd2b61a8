# SPDX-License-Identifier: Apache-2.0
"""Attend with a request's new tokens over its cached keys and over themselves.

The cache is BF16 or bytes of E4M3. New keys and values are those of the forward, not yet rounded
to the cache's dtype, or bytes of E4M3 where a layer reads another layer's.

A tile's rows are tokens times the query heads of a key head, so the heads of a group read a key
once. Of the keys outside every row's sliding window, whole tiles are left out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._kv_tile import (
    E4M3_FACTOR,
    LOG2_E,
    capped,
    for_cache,
    scores_of,
    values_of,
    weigh,
)
from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.attention_checks import kv_pair, require_q
from sglang_gemma4_ext.kernels.attention_tiles import ExtendTile, choose_extend


@triton.jit
def _in_mask(mask_ptr, row_at, column, inside):
    """Read a tile of a mask: int64 offsets of rows [M], columns [N], bool [M, N] to be read."""
    return tl.load(mask_ptr + row_at[:, None] + column[None, :], mask=inside, other=0) != 0


@triton.jit
def _extend_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    k_cache_ptr,
    v_cache_ptr,
    qo_indptr_ptr,
    kv_indptr_ptr,
    indices_ptr,
    mask_ptr,
    mask_indptr_ptr,
    mask_offset_ptr,
    score_scale,
    cached_score_scale,
    value_scale,
    q_stride,
    q_stride_head,
    k_stride,
    k_stride_head,
    v_stride,
    v_stride_head,
    out_stride,
    out_stride_head,
    k_cache_stride,
    k_cache_stride_head,
    v_cache_stride,
    v_cache_stride_head,
    distance,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LOGIT_CAP: tl.constexpr,
    WINDOW: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASK_CACHED: tl.constexpr,
    E4M3: tl.constexpr,
    NEW_E4M3: tl.constexpr,
    PLAIN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write the attention of a tile of tokens. grid: (tiles of tokens, key heads, requests)."""
    TOKENS: tl.constexpr = BLOCK_M // GROUP
    # The last tokens have the most keys; they start first.
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * TOKENS
    kv_head = tl.program_id(1)
    request = tl.program_id(2)
    begin = tl.load(qo_indptr_ptr + request).to(tl.int64)
    new = (tl.load(qo_indptr_ptr + request + 1) - begin).to(tl.int32)
    if first < new:
        cached_begin = tl.load(kv_indptr_ptr + request).to(tl.int64)
        cached = (tl.load(kv_indptr_ptr + request + 1) - cached_begin).to(tl.int32)
        row = tl.arange(0, BLOCK_M)
        token = first + row // GROUP
        head = kv_head * GROUP + row % GROUP
        inside = (token < new) & (row < TOKENS * GROUP)
        dim = tl.arange(0, HEAD_DIM)
        q_row = q_ptr + (begin + token) * q_stride + head * q_stride_head
        q = tl.load(q_row[:, None] + dim[None, :], mask=inside[:, None], other=0.0)
        if mask_ptr is not None:
            offset = 0
            if mask_offset_ptr is not None:
                offset = tl.load(mask_offset_ptr + request).to(tl.int32)
            mask_row = tl.load(mask_indptr_ptr + request).to(tl.int64) + offset
            mask_row = mask_row + token.to(tl.int64) * (cached + new + offset)

        acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        largest = tl.full([BLOCK_M], float("-inf"), tl.float32)

        q_even, q_odd, lacking = for_cache(q, HEAD_DIM, E4M3)
        lacking = lacking * cached_score_scale * LOG2_E
        start = 0
        if WINDOW:
            start = tl.maximum(cached + first - distance, 0) // BLOCK_N * BLOCK_N
        k_head = k_cache_ptr + kv_head * k_cache_stride_head
        v_head = v_cache_ptr + kv_head * v_cache_stride_head
        for n in range(start, cached, BLOCK_N):
            at = n + tl.arange(0, BLOCK_N)
            there = at < cached
            slot = tl.load(indices_ptr + cached_begin + at, mask=there, other=0).to(tl.int64)
            rows = k_head + slot * k_cache_stride
            scores = scores_of(q_even, q_odd, rows, there, HEAD_DIM, E4M3, PLAIN)
            scores = capped(scores * lacking[:, None], LOGIT_CAP)
            visible = there[None, :] & inside[:, None]
            if WINDOW:
                visible = visible & (cached + token[:, None] - at[None, :] <= distance)
            if MASK_CACHED:
                visible = visible & _in_mask(mask_ptr, mask_row, at, visible)
            weights, kept, total, largest = weigh(scores, visible, total, largest)
            v = values_of(v_head + slot * v_cache_stride, there, HEAD_DIM, E4M3, PLAIN)
            v = v.to(q_even.dtype)
            acc *= kept[:, None]
            acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")

        if not NEW_E4M3:
            # Values of the cache lack this factor; new ones do not.
            acc *= value_scale
            lacking = tl.full([BLOCK_M], 1.0, tl.float32) * score_scale * LOG2_E
        start = 0
        stop = new
        if CAUSAL:
            stop = tl.minimum(new, first + TOKENS)
        if WINDOW:
            start = tl.maximum(first - distance, 0) // BLOCK_N * BLOCK_N
        k_head = k_ptr + begin * k_stride + kv_head * k_stride_head
        v_head = v_ptr + begin * v_stride + kv_head * v_stride_head
        for n in range(start, stop, BLOCK_N):
            at = n + tl.arange(0, BLOCK_N)
            there = at < stop
            rows = k_head + at.to(tl.int64) * k_stride
            if NEW_E4M3:
                scores = scores_of(q_even, q_odd, rows, there, HEAD_DIM, True, PLAIN)
            else:
                scores = scores_of(q, q, rows, there, HEAD_DIM, False, PLAIN)
            scores = capped(scores * lacking[:, None], LOGIT_CAP)
            visible = there[None, :] & inside[:, None]
            if mask_ptr is not None:
                visible = visible & _in_mask(mask_ptr, mask_row, cached + at, visible)
            elif CAUSAL:
                visible = visible & (at[None, :] <= token[:, None])
            if WINDOW:
                visible = visible & (token[:, None] - at[None, :] <= distance)
                if not CAUSAL:
                    visible = visible & (at[None, :] - token[:, None] <= distance)
            weights, kept, total, largest = weigh(scores, visible, total, largest)
            v = values_of(v_head + at.to(tl.int64) * v_stride, there, HEAD_DIM, NEW_E4M3, PLAIN)
            v = v.to(q_even.dtype if NEW_E4M3 else q.dtype)
            acc *= kept[:, None]
            acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")

        if NEW_E4M3:
            acc *= value_scale
        # A row without keys gets zeros.
        acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        out_row = out_ptr + (begin + token) * out_stride + head * out_stride_head
        out = acc.to(out_ptr.dtype.element_ty)
        tl.store(out_row[:, None] + dim[None, :], out, mask=inside[:, None])


def extend_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    qo_indptr: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    max_new: int,
    *,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    logit_cap: float = 0.0,
    distance: int | None = None,
    causal: bool = True,
    mask: torch.Tensor | None = None,
    mask_indptr: torch.Tensor | None = None,
    mask_offsets: torch.Tensor | None = None,
    mask_cached: bool = False,
    out: torch.Tensor | None = None,
    tile: ExtendTile | None = None,
) -> torch.Tensor:
    """Compute softmax(cap(scale * q k^T)) v for the new tokens of each request.

    q: bf16, fp16 or fp32 [T, Hq, D], D a power of two from 32 to 512
    k, v: [T, Hkv, D] of the new tokens, in q's dtype, or float8_e4m3fn as in the cache
    k_cache, v_cache: [slots, Hkv, D] in q's dtype or float8_e4m3fn; Hq is a multiple of Hkv by at
        most 16. Cached keys lack k_scale, cached values v_scale.
    qo_indptr: int32 [B + 1], prefix sums of the new tokens; kv_indptr: int32 [>= B + 1], of the
        cached keys that are attended; kv_indices: their slots, int32 or int64
    max_new: int, the most new tokens of a request
    distance: from a query to the oldest key that it sees, a window minus one; None for no window
    causal: a new token sees no later one
    mask: bool or uint8, per request its rows [new, offset + cached + new]: True where a token sees
        a key; replaces causality among the new tokens, and with mask_cached restricts cached keys
    mask_indptr: int64 [>= B], where each request's rows start
    mask_offsets: int32 or int64 [B], columns before the first cached key; None for 0
    Returns [T, Hq, D] in q's dtype; a token that sees no key gets zeros. Other slots are not read.
    Raises ValueError for tensors that do not fit.
    """
    cache = kv_pair(q, k_cache, v_cache, "k_cache", "v_cache")
    added = kv_pair(q, k, v, "k", "v")
    group = require_q(q, cache)
    require(len(k) == len(q), "k has %d rows, q has %d", len(k), len(q))
    require(k.shape[1] == k_cache.shape[1], "k and k_cache differ in heads: %s", k.shape)
    require(cache.e4m3 or not added.e4m3, "k is float8_e4m3fn, k_cache is %s", k_cache.dtype)
    require((mask is None) == (mask_indptr is None), "mask and mask_indptr belong together")
    requests, dim = len(qo_indptr) - 1, q.shape[2]
    require(len(kv_indptr) > requests, "kv_indptr has %d elements", len(kv_indptr))
    if out is None:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if max_new == 0 or len(q) == 0:
        return out
    tile = tile or choose_extend(q.device, dim, cache.e4m3, mask is not None, max_new * group)
    tokens = tile.block_m // group
    factor = v_scale * (E4M3_FACTOR.value if cache.e4m3 else 1.0)
    _extend_attention_kernel[(triton.cdiv(max_new, tokens), k.shape[1], requests)](
        q,
        added.k,
        added.v,
        out,
        cache.k,
        cache.v,
        qo_indptr,
        kv_indptr,
        kv_indices,
        None if mask is None else mask.view(torch.uint8),
        mask_indptr,
        None if mask is None else mask_offsets,
        scale,
        scale * k_scale,
        factor,
        *(stride for tensor in (q, added.k, added.v, out) for stride in tensor.stride()[:2]),
        *(stride for tensor in cache[:2] for stride in tensor.stride()[:2]),
        -1 if distance is None else distance,
        GROUP=group,
        HEAD_DIM=dim,
        LOGIT_CAP=logit_cap,
        WINDOW=distance is not None,
        CAUSAL=causal,
        MASK_CACHED=mask is not None and mask_cached,
        E4M3=cache.e4m3,
        NEW_E4M3=added.e4m3,
        PLAIN=triton.knobs.runtime.interpret,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out
