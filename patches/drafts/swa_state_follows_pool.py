# SPDX-License-Identifier: Apache-2.0
"""Keep a draft's attention backend in step with the KV pool that it reads.

Gemma 4's assistant owns no keys: SGLang points its attention backend at the target's pool for each
forward. Some backends record at construction whether their pool has sliding layers. For a draft
that record is wrong, so they read sliding keys at slots of the full pool. The two agree until slots
are freed and reused; from then on drafts read other tokens' keys. The target's output stays right,
and only acceptance suffers.

This patch changes the record together with the pool, and restores it afterwards, also after an
exception. A draft's CUDA graph allocates and captures its page tables under the changed record. In
a hybrid backend both parts follow the pool; SGLang changes the wrapper alone.

TRTLLM-MHA, FlashInfer and AITER resolve the target's pool at construction, and Triton reads the
pool at each call. They are not touched. EAGLE drafts own their keys and never come here.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch, Source

UTILS = "sglang.srt.speculative.frozen_kv_mtp_utils"
RUNNER = "sglang.srt.speculative.frozen_kv_mtp_cuda_graph_runner.FrozenKVMTPCudaGraphRunner"
ATTENTION = "sglang.srt.layers.attention"

# Classes that record `use_sliding_window_kv_pool` at construction and read it at each call. They
# are listed by name, because importing one needs its vendor's kernels.
RECORDS_ITS_POOL = frozenset(
    {
        "FlashAttentionBackend",
        "XPUAttentionBackend",
        "IntelAMXAttnBackend",
        "TorchNativeAttnBackend",
    }
)


@contextlib.contextmanager
def pointed_at(backend: Any, pool: Any) -> Iterator[None]:
    """Make `backend`, and the backends in it, read `pool` and know its kind."""
    with contextlib.ExitStack() as undo:
        for part in _parts(backend):
            changes = {"token_to_kv_pool": pool}
            if any(base.__name__ in RECORDS_ITS_POOL for base in type(part).__mro__):
                changes["use_sliding_window_kv_pool"] = _has_sliding_layers(pool)
            for name, value in changes.items():
                undo.callback(setattr, part, name, getattr(part, name))
                setattr(part, name, value)
        yield


def _parts(backend: Any) -> list[Any]:
    """Return the backend, and the two that a HybridAttnBackend chooses from."""
    inner = (vars(backend).get(name) for name in ("prefill_backend", "decode_backend"))
    return [backend, *(part for part in inner if part is not None)]


def _has_sliding_layers(pool: Any) -> bool:
    """Return whether sliding layers have slots of their own, as the backends record it."""
    from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool

    return isinstance(pool, SWAKVPool) and pool.swa_layer_nums > 0


@contextlib.contextmanager
def _view(
    original: Callable[..., Any], forward_batch: Any, kv_context: Any, draft_attn_backend: Any
) -> Iterator[None]:
    """AROUND SGLang's two context managers that point the backend at the target's pool."""
    with (
        original(forward_batch, kv_context, draft_attn_backend),
        pointed_at(draft_attn_backend, kv_context.target_token_to_kv_pool),
    ):
        yield


def _allocate_and_capture(original: Callable[..., None], self: Any, worker: Any) -> None:
    """AROUND __init__ of the draft's graph runner. Replays go through the views."""
    with pointed_at(worker.draft_attn_backend, worker.kv_context.target_token_to_kv_pool):
        original(self, worker)


def _retired() -> bool:
    from sglang.srt.speculative import frozen_kv_mtp_utils as utils

    return "use_sliding_window_kv_pool" in inspect.getsource(utils)


PATCH = Patch(
    name="swa_state_follows_pool",
    theme="drafts",
    summary="MTP drafts read sliding keys at the right slots on every backend",
    why="the views swap a backend's pool but not its record of that pool; no flag or registry does",
    upstream="sgl-project/sglang#26966, #27491, #29616 (TRTLLM-MHA, FlashInfer, AITER; not these)",
    retire_when="frozen_kv_mtp_utils swaps use_sliding_window_kv_pool, or FlashAttentionBackend "
    "resolves the pool as TRTLLMHAAttnBackend does",
    retired=_retired,
    hooks=(
        Hook(f"{UTILS}.frozen_kv_target_view", "460d32f35dff", "around", _view),
        Hook(f"{UTILS}.target_kv_pool_view", "3a5e526d34b4", "around", _view),
        Hook(f"{RUNNER}.__init__", "86740e6e5d75", "around", _allocate_and_capture),
    ),
    relies_on=(
        Source(f"{RUNNER}.capture_one_shape", "beadadd33954"),
        Source(f"{ATTENTION}.hybrid_attn_backend.HybridAttnBackend.__init__", "915eafe70d4a"),
        Source(f"{ATTENTION}.torch_native_backend.TorchNativeAttnBackend.__init__", "681e6d1c8d8a"),
        Source(f"{ATTENTION}.triton_backend.update_sliding_window_buffer", "4e495713bb1e"),
    ),
)
