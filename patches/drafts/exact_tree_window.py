# SPDX-License-Identifier: Apache-2.0
"""Give each token of a draft tree (top-k > 1) its own sliding window during verification.

Triton's extend kernel takes a query's index in the batch for its position. In a chain the two
agree. In a tree a token's index is above its depth, and it loses as many of the window's oldest
keys. Its prediction then differs from decoding.

The kernel reads a mask for tree tokens, so the exact window goes into that mask. The mask covers,
for each request, the last window - 1 cached keys and the tree. All requests have the same width, as
CUDA graphs need. The kernel's own window grows by the tree's size, so that it cuts no further keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.kernels.tree_window import tree_window_mask
from sglang_gemma4_ext.registry import Hook, Patch, Source

BACKEND = "sglang.srt.layers.attention.triton_backend.TritonAttnBackend"
EXTEND = "sglang.kernels.ops.attention.extend_attention"


def _masked(
    original: Callable[..., Any],
    self: Any,
    layer: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    k_buffer: torch.Tensor,
    v_buffer: torch.Tensor,
    qo_indptr: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    custom_mask: torch.Tensor | None,
    causal: bool,
    mask_indptr: torch.Tensor | None,
    max_extend_len: int,
    *scales: Any,
    sliding_window_size: int = -1,
    **options: Any,
) -> Any:
    """AROUND _forward_extend_kernel, which takes extend_attention_fwd's arguments."""
    buffers = (q, k, v, o, k_buffer, v_buffer, qo_indptr, kv_indptr, kv_indices)
    if custom_mask is not None and sliding_window_size > 0 and _is_tree():
        custom_mask, mask_indptr, options["window_kv_offsets"] = _mask_of_forward(
            self.forward_metadata,
            layer.layer_id,
            (custom_mask, mask_indptr, kv_indptr[: qo_indptr.shape[0]]),
            tokens=max_extend_len,
            distance=sliding_window_size,
        )
        sliding_window_size += max_extend_len
        options["skip_prefix_custom_mask"] = False
    return original(
        self,
        layer,
        *buffers,
        custom_mask,
        causal,
        mask_indptr,
        max_extend_len,
        *scales,
        sliding_window_size=sliding_window_size,
        **options,
    )


def _is_tree() -> bool:
    from sglang.srt.runtime_context import get_spec

    return (get_spec().speculative_eagle_topk or 1) > 1


def _mask_of_forward(
    metadata: Any, layer_id: int, indices: tuple[torch.Tensor, ...], *, tokens: int, distance: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the mask of this forward, computed at its first sliding layer.

    A CUDA graph's metadata outlives its warm-up. The same layer seen again means a new forward, so
    the capture records the computation and each replay repeats it.
    """
    made_at, mask = getattr(metadata, "_tree_window_mask", (None, None))
    if mask is None or made_at == layer_id:
        mask = tree_window_mask(*indices, tokens=tokens, distance=distance)
        metadata._tree_window_mask = (layer_id, mask)
    return mask


def _retired() -> bool:
    from sglang.kernels.ops.attention import extend_attention

    parameters = inspect.signature(inspect.unwrap(extend_attention.extend_attention_fwd)).parameters
    return "positions" in parameters


PATCH = Patch(
    name="exact_tree_window",
    theme="drafts",
    summary="Triton verifies draft trees (top-k > 1) with each token's own sliding window",
    why="extend_attention_fwd takes a tree's mask but not its depths; only the mask has room",
    upstream="unreported",
    retire_when="extend_attention_fwd takes the positions of a tree's tokens",
    retired=_retired,
    hooks=(Hook(f"{BACKEND}._forward_extend_kernel", "9b184f4b5496", "around", _masked),),
    relies_on=(
        Source(f"{BACKEND}.forward_extend", "f6f5f46fc397"),
        Source(f"{EXTEND}.extend_attention_fwd", "b0cc63493292"),
    ),
)
