# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's extend kernel on a draft tree, in Triton's interpreter.

It needs a process of its own. It prints the largest difference from the reference, with the hook
and without it.
"""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import torch

from sglang_gemma4_ext.kernels.attention_ref import attend_ref
from sglang_gemma4_ext.patches.drafts import exact_tree_window
from tests.patches.hooks import hook_of

WINDOW, HEADS, KV_HEADS, DIM = 16, 2, 1, 32
# Parents of a tree's tokens: two branches from the root, and two from the second of them.
PARENTS = (None, 0, 0, 2, 2, 4)
CACHED = (40, 5, 15, 16)


def tree() -> torch.Tensor:
    sees = torch.eye(len(PARENTS), dtype=torch.bool)
    for token, parent in enumerate(PARENTS):
        if parent is not None:
            sees[token] |= sees[parent]
    return sees


def differences(hooked: bool) -> float:
    """Return max |kernel - reference| over requests below, at and beyond the window."""
    from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd

    draw, tokens, sees = torch.Generator().manual_seed(0), len(PARENTS), tree()

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    def indptr(sizes: list[int]) -> torch.Tensor:
        return torch.tensor([0, *sizes]).cumsum(0)

    def kernel(self: object, layer: object, *arguments: object, **options: object) -> None:
        extend_attention_fwd(*arguments, **options)

    attended = torch.tensor([min(length, WINDOW - 1) for length in CACHED])
    cached_k, cached_v = normal(100, KV_HEADS, DIM), normal(100, KV_HEADS, DIM)
    slots = torch.randperm(100, generator=draw)
    q, k, v = (normal(len(CACHED) * tokens, n, DIM) for n in (HEADS, KV_HEADS, KV_HEADS))
    out = torch.full_like(q, float("nan"))
    starts = [sum(CACHED[:i]) for i in range(len(CACHED))]
    masks = [torch.cat([sees.new_ones(tokens, n), sees], 1).flatten() for n in CACHED]
    ends = [start + n for start, n in zip(starts, CACHED, strict=True)]
    window_slots = [slots[e - n : e] for e, n in zip(ends, attended.tolist(), strict=True)]
    arguments = (
        *(q, k, v, out, cached_k, cached_v),
        indptr([tokens] * len(CACHED)),
        indptr(attended.tolist()),
        torch.cat(window_slots),
        torch.cat(masks),
        True,
        indptr([mask.numel() for mask in masks]),
        *(tokens, 1.0, 1.0, DIM**-0.5),
    )
    options = {
        "sliding_window_size": WINDOW - 1,
        "window_kv_offsets": torch.tensor(CACHED) - attended,
    }
    backend = SimpleNamespace(forward_metadata=SimpleNamespace())
    layer = SimpleNamespace(layer_id=0)
    if hooked:
        with mock.patch.object(exact_tree_window, "_is_tree", return_value=True):
            hook = hook_of(exact_tree_window.PATCH, "around", "_forward_extend_kernel")
            hook(kernel, backend, layer, *arguments, **options)
    else:
        kernel(backend, layer, *arguments, **options)
    worst = 0.0
    for request, (start, end) in enumerate(zip(starts, ends, strict=True)):
        rows = slice(request * tokens, (request + 1) * tokens)
        held = slots[start:end]
        keys, values = torch.cat([cached_k[held], k[rows]]), torch.cat([cached_v[held], v[rows]])
        expected = attend_ref(q[rows], keys, values, scale=DIM**-0.5, window=WINDOW, tree=sees)
        worst = max(worst, (out[rows] - expected).abs().max().item())
    return worst


if __name__ == "__main__":
    print("differences", differences(hooked=True), differences(hooked=False))
