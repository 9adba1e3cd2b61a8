# SPDX-License-Identifier: Apache-2.0
"""Attend over paged keys and values in float64, as the attention kernels do, in plain PyTorch."""

from __future__ import annotations

import torch


def decode_attention_ref(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    *,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    logit_cap: float = 0.0,
) -> torch.Tensor:
    """Compute `decode_attention` in float64 [T, Hq, D]; the arguments are the same."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    for request in range(len(q)):
        slots = kv_indices[kv_indptr[request] : kv_indptr[request + 1]].long()
        keys, values = k_cache[slots].double() * k_scale, v_cache[slots].double() * v_scale
        visible = torch.ones(1, len(slots), dtype=torch.bool)
        out[request] = _attend(q[request : request + 1], keys, values, visible, scale, logit_cap)[0]
    return out


def extend_attention_ref(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    qo_indptr: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    *,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    logit_cap: float = 0.0,
    distance: int | None = None,
    causal: bool = True,
    masks: list[torch.Tensor] | None = None,
    mask_cached: bool = False,
) -> torch.Tensor:
    """Compute `extend_attention` in float64 [T, Hq, D].

    The arguments are the same but for masks: bool [new, cached + new] of each request.
    """
    out = torch.zeros(q.shape, dtype=torch.float64)
    new_scales = (k_scale, v_scale) if k.dtype == torch.float8_e4m3fn else (1.0, 1.0)
    for request in range(len(qo_indptr) - 1):
        rows = slice(qo_indptr[request], qo_indptr[request + 1])
        slots = kv_indices[kv_indptr[request] : kv_indptr[request + 1]].long()
        keys = torch.cat([k_cache[slots].double() * k_scale, k[rows].double() * new_scales[0]])
        values = torch.cat([v_cache[slots].double() * v_scale, v[rows].double() * new_scales[1]])
        cached, new = len(slots), int(qo_indptr[request + 1] - qo_indptr[request])
        query, key = torch.arange(new)[:, None] + cached, torch.arange(cached + new)[None]
        visible = torch.ones(new, cached + new, dtype=torch.bool)
        if masks is not None:
            seen = masks[request]
            visible &= seen if mask_cached else seen | (key < cached)
        elif causal:
            visible &= key <= query
        if distance is not None:
            visible &= query - key <= distance
            visible &= causal | (key - query <= distance) | (key < cached)
        out[rows] = _attend(q[rows], keys, values, visible, scale, logit_cap)
    return out


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    scale: float,
    logit_cap: float,
) -> torch.Tensor:
    """Attend with q [T, Hq, D] over k, v [L, Hkv, D] where visible [T, L]; zeros without keys."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("thd,lhd->htl", q.double(), k) * scale
    if logit_cap:
        scores = logit_cap * torch.tanh(scores / logit_cap)
    scores = scores.masked_fill(~visible, -torch.inf)
    # A query without keys: softmax gives NaN.
    weights = torch.where(visible.any(-1)[None, :, None], torch.softmax(scores, -1), 0.0)
    return torch.einsum("htl,lhd->thd", weights, v)
