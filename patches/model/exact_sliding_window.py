# SPDX-License-Identifier: Apache-2.0
"""Attend the whole sliding window in Triton decode.

SGLang keeps the window as `sliding_window - 1`, the distance to the oldest visible key. Prefill and
verify gather that many keys of the prefix and add the query's own, which makes `window`. A decode
step gathers min(seq_len, window - 1) keys *including* its own and so loses the oldest.

The window grows by one exactly where a decode's indices are built: the eager metadata, the
CUDA-graph metadata, the graph's buffers, and the per-step metadata of a multi-step draft. The
oldest key is still in its slot: a decode step of length L frees SWA slots below L - window.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch, Source

TRITON = "sglang.srt.layers.attention.triton_backend"
BACKEND = f"{TRITON}.TritonAttnBackend"


@contextlib.contextmanager
def _inclusive_window(backend: Any) -> Iterator[None]:
    """Let `backend.sliding_window_size` count the query's own key; restored on any exit."""
    window = backend.sliding_window_size
    if window is not None and window > 0:
        backend.sliding_window_size = window + 1
    try:
        yield
    finally:
        backend.sliding_window_size = window


def _eager(original: Callable[..., Any], self: Any, forward_batch: Any, *args, **kwargs):
    if not forward_batch.forward_mode.is_decode_or_idle():
        return original(self, forward_batch, *args, **kwargs)
    with _inclusive_window(self):
        return original(self, forward_batch, *args, **kwargs)


def _decode_only(original: Callable[..., Any], self: Any, *args, **kwargs):
    with _inclusive_window(self):
        return original(self, *args, **kwargs)


def _draft_rail(result: None, self: Any, *args, **kwargs) -> None:
    """AFTER __init__ of the multi-step draft: all it does with the window is decode."""
    if self.sliding_window_size is not None and self.sliding_window_size > 0:
        self.sliding_window_size += 1


def _retired() -> bool:
    from sglang.srt.layers.attention import triton_backend

    source = inspect.getsource(inspect.unwrap(triton_backend.update_sliding_window_buffer))
    return "sliding_window_size + 1" in source


PATCH = Patch(
    name="exact_sliding_window",
    theme="model",
    summary="Triton decode attends `sliding_window` keys, as prefill and transformers do",
    why=(
        "update_sliding_window_buffer takes a window without the query's own key, but decode "
        "counts that key among those it gathers; no flag changes it"
    ),
    upstream="sgl-project/sglang#32087 (closed, not merged)",
    retire_when="update_sliding_window_buffer gathers sliding_window_size + 1 keys for decode",
    retired=_retired,
    hooks=(
        Hook(f"{BACKEND}.init_forward_metadata", "cb1dd35087bc", "around", _eager),
        Hook(f"{BACKEND}._update_decode_kv_buffers", "887a12a87533", "around", _decode_only),
        Hook(f"{BACKEND}.init_cuda_graph_state", "f1ac026603c0", "around", _decode_only),
        Hook(
            f"{TRITON}.TritonMultiStepDraftBackend.__init__", "f9602ec4a26c", "after", _draft_rail
        ),
    ),
    relies_on=(
        Source(f"{TRITON}.update_sliding_window_buffer", "4e495713bb1e"),
        Source(f"{TRITON}.TritonMultiStepDraftBackend._fill_window_rail", "39b9cce788eb"),
        Source("sglang.srt.mem_cache.common.free_swa_out_of_window_slots", "438b20d2778d"),
        Source("sglang.srt.models.gemma4_causal.get_attention_sliding_window_size", "a74902c02a1a"),
    ),
)
