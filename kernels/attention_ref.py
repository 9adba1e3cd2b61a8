# SPDX-License-Identifier: Apache-2.0
"""Attend causally over one request's keys, with a sliding window, in plain PyTorch."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention


def attend_ref(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    window: int | None = None,
    tree: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute softmax(scale * q k^T) v, where the queries are the last T of the L positions.

    q: [T, Hq, D]
    k: [L, Hkv, D], L >= T, Hq a multiple of Hkv
    v: [L, Hkv, Dv]
    window: the most keys that a query sees, including its own; None for all before it
    tree: bool [T, T], for T tokens that form a draft tree: True where the row's token sees the
        column's, that is itself and its ancestors. A token's position is L - T plus its depth.
    Returns [T, Hq, Dv] in q's dtype; keys and values are converted to it.
    Raises ValueError if L < T or the heads do not divide.
    """
    queries, keys = q.shape[0], k.shape[0]
    if keys < queries:
        raise ValueError(f"{queries=} are more than {keys=}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"query heads {q.shape[1]} are not a multiple of KV heads {k.shape[1]}")
    out = scaled_dot_product_attention(
        q.movedim(0, 1)[None],
        k.to(q.dtype).movedim(0, 1)[None],
        v.to(q.dtype).movedim(0, 1)[None],
        attn_mask=_mask(queries, keys, window, tree, q.device),
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].movedim(1, 0)


def _mask(
    queries: int, keys: int, window: int | None, tree: torch.Tensor | None, device: torch.device
) -> torch.Tensor | None:
    """Return bool [T, L], True where the query sees the key; None if it sees every key."""
    if queries == 1 and (window is None or keys <= window):
        return None
    key = torch.arange(keys, device=device)
    if tree is None:
        query = key[keys - queries :]
        visible = key <= query[:, None]
    else:
        prefix = keys - queries
        query = prefix + tree.sum(-1) - 1
        key = torch.cat([key[:prefix], query])
        visible = torch.cat([tree.new_ones(queries, prefix), tree], 1)
    if window is not None:
        visible = visible & (key > query[:, None] - window)
    return visible
