# SPDX-License-Identifier: Apache-2.0
"""Draw requests whose keys and values lie all over a pool, with NaN in every other slot."""

from __future__ import annotations

from dataclasses import dataclass

import torch

E4M3 = torch.float8_e4m3fn
# The worst error against float64, of `oracle.error`, by the queries' dtype. fp32: sums of 512
# products. BF16 rounds the output once, at most 2^-8. Over a BF16 cache it rounds the softmax
# weights too.
WORST = {torch.float32: 1e-5, torch.bfloat16: 4.5e-3}
BF16_CACHE_WORST = 2e-2


@dataclass
class Paged:
    """Hold a pool [slots, Hkv, D] of keys and one of values, and each request's slots."""

    k_cache: torch.Tensor
    v_cache: torch.Tensor
    kv_indptr: torch.Tensor
    kv_indices: torch.Tensor

    def to(self, device: str) -> tuple[torch.Tensor, ...]:
        return tuple(
            t.to(device) for t in (self.k_cache, self.v_cache, self.kv_indptr, self.kv_indices)
        )


def draw(lengths: tuple[int, ...], kv_heads: int, dim: int, dtype: torch.dtype, seed=0) -> Paged:
    """Draw a pool; the slots that no request has are NaN."""
    g = torch.Generator().manual_seed(seed + dim + kv_heads)
    used = sum(lengths)
    slots = torch.randperm(2 * used + 7, generator=g)[:used]
    pools = []
    for _ in range(2):
        pool = torch.full((2 * used + 7, kv_heads, dim), torch.nan)
        pool[slots] = torch.randn(used, kv_heads, dim, generator=g)
        pools.append(pool.to(dtype))
    indptr = torch.tensor([0, *lengths]).cumsum(0).int()
    return Paged(*pools, indptr, slots)


def queries(tokens: int, heads: int, dim: int, dtype: torch.dtype, seed=0) -> torch.Tensor:
    """Draw queries whose scores have a standard deviation of about 3."""
    g = torch.Generator().manual_seed(seed + tokens)
    return (torch.randn(tokens, heads, dim, generator=g) * 3 * dim**-0.5).to(dtype)


def worst(q_dtype: torch.dtype, cache_dtype: torch.dtype) -> float:
    """Return the largest error to expect."""
    if cache_dtype == torch.bfloat16:
        return BF16_CACHE_WORST
    return WORST[q_dtype]
