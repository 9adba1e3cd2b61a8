# SPDX-License-Identifier: Apache-2.0
"""Attend with one query per request over cached keys and values, in BF16 or in bytes of E4M3.

A request's keys are divided into splits, and a program takes a split for a group of query heads
that share a key head. A second launch adds the splits in their order, so results do not depend on
which program ends first.

Softmax weights multiply values in FP16 over a cache of E4M3, in the cache's dtype otherwise. Sums
are fp32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._kv_tile import (
    E4M3_FACTOR,
    LN_2,
    LOG2_E,
    add_values,
    capped,
    empty_sums,
    for_cache,
    scores_of,
    weigh,
    whole,
)
from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.attention_checks import kv_pair, require_q
from sglang_gemma4_ext.kernels.attention_tiles import DecodeTile, choose_decode

# A split has a multiple of this many keys, as in SGLang.
SPLIT_KEYS = tl.constexpr(32)


@triton.jit
def split_range(keys, splits, split):
    """Return the first key of a split and the end of its keys."""
    each = tl.cdiv(tl.cdiv(keys, splits), SPLIT_KEYS) * SPLIT_KEYS
    return each * split, tl.minimum(each * (split + 1), keys)


@triton.jit
def _decode_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    indptr_ptr,
    indices_ptr,
    splits_ptr,
    parts_ptr,
    lse_ptr,
    score_scale,
    q_stride,
    q_stride_head,
    k_stride,
    k_stride_head,
    v_stride,
    v_stride_head,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LOGIT_CAP: tl.constexpr,
    E4M3: tl.constexpr,
    PLAIN: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write a split's attention, normalized, and the logarithm of its softmax's sum.

    grid: (splits, key heads, requests). parts: fp32 [T, H, S, D]; lse: fp32 [T, H, S]
    """
    split = tl.program_id(0)
    kv_head = tl.program_id(1)
    request = tl.program_id(2).to(tl.int64)
    heads = tl.num_programs(1) * GROUP
    begin = tl.load(indptr_ptr + request).to(tl.int64)
    keys = (tl.load(indptr_ptr + request + 1) - begin).to(tl.int32)
    start, stop = split_range(keys, tl.load(splits_ptr + request), split)
    if start < stop:
        head = tl.arange(0, BLOCK_H)
        inside = head < GROUP
        dim = tl.arange(0, HEAD_DIM)
        head += kv_head * GROUP
        q_at = q_ptr + request * q_stride + head[:, None] * q_stride_head + dim[None, :]
        q = tl.load(q_at, mask=inside[:, None], other=0.0)
        q_even, q_odd, lacking = for_cache(q, HEAD_DIM, E4M3)
        lacking *= score_scale * LOG2_E
        even, odd = empty_sums(BLOCK_H, HEAD_DIM, E4M3)
        total = tl.zeros([BLOCK_H], tl.float32)
        largest = tl.full([BLOCK_H], float("-inf"), tl.float32)
        k_head = k_ptr + kv_head * k_stride_head
        v_head = v_ptr + kv_head * v_stride_head
        for n in range(start, stop, BLOCK_N):
            at = n + tl.arange(0, BLOCK_N)
            cached = at < stop
            slot = tl.load(indices_ptr + begin + at, mask=cached, other=0).to(tl.int64)
            rows = k_head + slot * k_stride
            scores = scores_of(q_even, q_odd, rows, cached, HEAD_DIM, E4M3, PLAIN)
            scores = capped(scores * lacking[:, None], LOGIT_CAP)
            weights, kept, total, largest = weigh(scores, cached[None, :], total, largest)
            even *= kept[:, None]
            odd *= kept[:, None]
            rows = v_head + slot * v_stride
            even, odd = add_values(
                weights, even, odd, rows, cached, HEAD_DIM, E4M3, PLAIN, q_even.dtype
            )
        row = (request * heads + head) * tl.num_programs(0) + split
        out_at = parts_ptr + row[:, None] * HEAD_DIM + dim[None, :]
        out = whole(even, odd, HEAD_DIM, E4M3) / total[:, None]
        tl.store(out_at, out, mask=inside[:, None])
        tl.store(lse_ptr + row, (largest + tl.log2(total)) * LN_2, mask=inside)


@triton.jit
def _merge_splits_kernel(
    parts_ptr,
    lse_ptr,
    indptr_ptr,
    splits_ptr,
    out_ptr,
    value_scale,
    out_stride,
    out_stride_head,
    max_splits,
    HEAD_DIM: tl.constexpr,
):
    """Add the splits of a query head, in order. grid: (heads, requests)."""
    head = tl.program_id(0)
    request = tl.program_id(1).to(tl.int64)
    dim = tl.arange(0, HEAD_DIM)
    keys = (tl.load(indptr_ptr + request + 1) - tl.load(indptr_ptr + request)).to(tl.int32)
    splits = tl.load(splits_ptr + request)
    acc = tl.zeros([HEAD_DIM], tl.float32)
    total = 0.0
    largest = float("-inf")
    for split in range(splits):
        start, stop = split_range(keys, splits, split)
        if start < stop:
            row = (request * tl.num_programs(0) + head) * max_splits + split
            lse = tl.load(lse_ptr + row)
            higher = tl.maximum(largest, lse)
            kept = tl.exp2((largest - higher) * LOG2_E)
            weight = tl.exp2((lse - higher) * LOG2_E)
            acc = acc * kept + weight * tl.load(parts_ptr + row * HEAD_DIM + dim)
            total = total * kept + weight
            largest = higher
    # A request without keys gets zeros.
    acc = acc * (value_scale / tl.where(total == 0.0, 1.0, total))
    out_at = out_ptr + request * out_stride + head * out_stride_head + dim
    tl.store(out_at, acc.to(out_ptr.dtype.element_ty))


def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    num_splits: torch.Tensor,
    max_splits: int,
    *,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    logit_cap: float = 0.0,
    out: torch.Tensor | None = None,
    scratch: tuple[torch.Tensor, torch.Tensor] | None = None,
    tile: DecodeTile | None = None,
) -> torch.Tensor:
    """Compute softmax(cap(scale * q k^T)) v for one query per request.

    q: bf16, fp16 or fp32 [T, Hq, D], D a power of two from 32 to 512
    k_cache, v_cache: [slots, Hkv, D] in q's dtype or float8_e4m3fn, Hq a multiple of Hkv by at
        most 16. A key is k_cache times k_scale, a value v_cache times v_scale.
    kv_indptr: int32 [>= T + 1], prefix sums of the number of keys that each request attends
    kv_indices: int32 or int64, the slots of these keys; a sliding window is a choice of slots
    num_splits: int32 [>= T], over how many programs a request's keys are divided
    max_splits: int, at least the largest of num_splits
    logit_cap: bound of the scores by a tanh, 0 for none
    out: tensor for the result, contiguous in D. scratch: fp32 [T, Hq, max_splits, D] and
        [T, Hq, max_splits], contiguous
    Returns [T, Hq, D] in q's dtype; a request without keys gets zeros. Other slots are not read.
    Raises ValueError for tensors that do not fit.
    """
    cache = kv_pair(q, k_cache, v_cache, "k_cache", "v_cache")
    group = require_q(q, cache)
    tokens, heads, dim = q.shape
    require(
        kv_indptr.numel() > tokens, "kv_indptr has %d elements, T is %d", len(kv_indptr), tokens
    )
    require(num_splits.numel() >= tokens, "num_splits has %d elements", len(num_splits))
    if out is None:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if tokens == 0:
        return out
    if scratch is None:
        shape = (tokens, heads, max_splits)
        scratch = (
            torch.empty(*shape, dim, dtype=torch.float32, device=q.device),
            torch.empty(shape, dtype=torch.float32, device=q.device),
        )
    parts, lse = scratch
    require(
        parts.is_contiguous() and parts.shape[1:] == (heads, max_splits, dim),
        "scratch must be contiguous [T, %d, %d, %d], got %s",
        *(heads, max_splits, dim, parts.shape),
    )
    tile = tile or choose_decode(q.device, dim, cache.e4m3)
    _decode_attention_kernel[(max_splits, heads // group, tokens)](
        q,
        cache.k,
        cache.v,
        kv_indptr,
        kv_indices,
        num_splits,
        parts,
        lse,
        scale * k_scale,
        *(q.stride(0), q.stride(1)),
        *(cache.k.stride(0), cache.k.stride(1), cache.v.stride(0), cache.v.stride(1)),
        GROUP=group,
        HEAD_DIM=dim,
        LOGIT_CAP=logit_cap,
        E4M3=cache.e4m3,
        PLAIN=triton.knobs.runtime.interpret,
        BLOCK_H=16,
        BLOCK_N=tile.block_n,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    _merge_splits_kernel[(heads, tokens)](
        parts,
        lse,
        kv_indptr,
        num_splits,
        out,
        v_scale * (E4M3_FACTOR.value if cache.e4m3 else 1.0),
        *(out.stride(0), out.stride(1)),
        max_splits,
        HEAD_DIM=dim,
    )
    return out
