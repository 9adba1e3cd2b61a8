# SPDX-License-Identifier: Apache-2.0
"""Read the sliding layers' keys at the right slots in SGLang's torch_native attention.

The backend writes a sliding layer's keys to slots of the SWA pool but reads them by their slots in
the full pool. The two agree until slots are freed and reused, which happens when a request outgrows
the window. Prefill and short decodes are right; later ones are wrong.
"""

from __future__ import annotations

from typing import Any

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels.attention_ref import attend_ref
from sglang_gemma4_ext.registry import Hook, Patch, Source

# A request: its number of keys, its number of queries, and the mask of its draft tree.
Span = tuple[int, int, torch.Tensor | None]

NATIVE = "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend"


def _forward_extend(
    self: Any, q: torch.Tensor, k: Any, v: Any, layer: Any, batch: Any, save_kv_cache: bool = True
) -> torch.Tensor:
    """REPLACE forward_extend. q: [tokens, heads * D]; returns [tokens, heads * Dv]."""
    spans = _drafted(batch) if batch.forward_mode.is_target_verify() else _extended(batch)
    return _forward(self, q, k, v, layer, batch, save_kv_cache, spans)


def _forward_decode(
    self: Any, q: torch.Tensor, k: Any, v: Any, layer: Any, batch: Any, save_kv_cache: bool = True
) -> torch.Tensor:
    """REPLACE forward_decode. q: [requests, heads * D]; returns [requests, heads * Dv]."""
    spans = [(length, 1, None) for length in batch.seq_lens.tolist()]
    return _forward(self, q, k, v, layer, batch, save_kv_cache, spans)


def _extended(batch: Any) -> list[Span]:
    lengths = zip(batch.seq_lens.tolist(), batch.extend_seq_lens.tolist(), strict=True)
    return [(length, queries, None) for length, queries in lengths]


def _drafted(batch: Any) -> list[Span]:
    """Return the trees to verify, which follow batch.seq_lens keys.

    spec_info.custom_mask: bool, the requests' [T, keys + T] one after the other. The last T columns
    are the tree (SGLang's TreeMaskMode.FULL_MASK).
    """
    tokens, mask, start, spans = batch.spec_info.draft_token_num, batch.spec_info.custom_mask, 0, []
    for prefix in batch.seq_lens.tolist():
        rows = mask[start : start + tokens * (prefix + tokens)].view(tokens, prefix + tokens)
        start += rows.numel()
        spans.append((prefix + tokens, tokens, rows[:, prefix:]))
    return spans


def _forward(
    self: Any,
    q: torch.Tensor,
    k: Any,
    v: Any,
    layer: Any,
    batch: Any,
    save_kv_cache: bool,
    spans: list[Span],
) -> torch.Tensor:
    from sglang.srt.mem_cache.memory_pool import KVWriteLoc

    pool = self.token_to_kv_pool
    if save_kv_cache and k is not None:
        loc = KVWriteLoc(batch.out_cache_loc, self.swa_out_cache_loc)
        pool.set_kv_buffer(layer, loc, k, v)
    keys, values = pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id)
    slots_of = _slot_reader(self, layer)
    # SGLang counts the distance to the oldest visible key; a window counts keys.
    distance = layer.sliding_window_size
    window = distance + 1 if distance is not None and distance >= 0 else None
    heads = q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim)
    out = heads.new_empty((heads.shape[0], layer.tp_q_head_num, layer.v_head_dim))
    start = 0
    requests = batch.req_pool_indices.tolist()
    for request, (length, queries, tree) in zip(requests, spans, strict=True):
        first = 0 if window is None else max(0, length - queries - distance)
        slots = slots_of(request, first, length)
        out[start : start + queries] = attend_ref(
            heads[start : start + queries],
            keys[slots],
            values[slots],
            scale=layer.scaling,
            window=window,
            tree=tree,
        )
        start += queries
    return out.flatten(1)


def _slot_reader(self: Any, layer: Any):
    """Return slots(request, first, end): the slots of those keys in this layer's pool."""
    from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool

    table, pool = self.req_to_token_pool.req_to_token, self.token_to_kv_pool
    if isinstance(pool, SWAKVPool) and pool.layers_mapping[layer.layer_id][1]:
        return lambda request, first, end: pool.translate_loc_from_full_to_swa(
            table[request, first:end]
        )
    return lambda request, first, end: table[request, first:end]


def _stands_down(ctx: Context) -> str | None:
    return None if ctx.settings.cpu else "a GPU runs its own attention kernels"


def _retired() -> bool:
    import inspect

    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend as Native

    read = inspect.getsource(inspect.unwrap(Native._run_sdpa_forward_decode))
    return "translate_loc_from_full_to_swa" in read


PATCH = Patch(
    name="cpu_torch_attention",
    theme="cpu",
    summary="CPU reference: torch_native attention is exact beyond the sliding window",
    why=(
        "the backend reads SWA keys by their slots in the full pool; no flag replaces its "
        "implementation, and its registry is filled by value"
    ),
    upstream="unreported",
    retire_when="TorchNativeAttnBackend translates the slots that it reads",
    retired=_retired,
    hooks=(
        Hook(f"{NATIVE}.forward_extend", "9d94d3cc90d2", "replace", _forward_extend),
        Hook(f"{NATIVE}.forward_decode", "057e1386b847", "replace", _forward_decode),
    ),
    relies_on=(
        Source(f"{NATIVE}.init_forward_metadata", "fa215b8a68bd"),
        Source("sglang.srt.mem_cache.swa_memory_pool.SWAKVPool.set_kv_buffer", "a94af6db74c6"),
        Source(
            "sglang.srt.mem_cache.swa_memory_pool.SWAKVPool.translate_loc_from_full_to_swa",
            "8e17ff7501a3",
        ),
    ),
    stands_down=_stands_down,
)
