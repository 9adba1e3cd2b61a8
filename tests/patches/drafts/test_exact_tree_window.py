# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's extend kernel on a draft tree beyond the sliding window, patched and not."""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels.tree_window import tree_window_mask
from sglang_gemma4_ext.patches.drafts import exact_tree_window
from tests.patches.hooks import hook_of
from tests.serving.harness import run_to_end


def test_a_tree_sees_its_own_window_through_the_triton_kernel():
    case = ("-m", "tests.probes.tree_window_case")
    ended = run_to_end(module=case, env={"TRITON_INTERPRET": "1"})
    assert ended.returncode == 0, ended.stdout[-2000:]
    hooked, stock = map(float, ended.stdout.split("differences")[1].split())
    assert hooked < 1e-5
    assert stock > 0.1


def test_the_mask_by_definition():
    """Check the mask of two requests with four tokens, 0 - 1 - 2 and 0 - 3.

    The first request has five cached keys, the second has two.
    """
    tokens, distance, cached = 4, 3, (5, 2)
    tree = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
    masks = [torch.cat([tree.new_ones(tokens, n), tree], 1).flatten() for n in cached]
    mask, indptr, skipped = tree_window_mask(
        torch.cat(masks),
        torch.tensor([0, masks[0].numel(), masks[0].numel() + masks[1].numel()]),
        torch.tensor([0, 3, 5]),
        tokens=tokens,
        distance=distance,
    )
    depths = (0, 1, 2, 1)
    expected = torch.tensor([[key >= depth for key in range(distance)] for depth in depths])
    assert torch.equal(mask.view(2, tokens, -1)[0], torch.cat([expected, tree], 1))
    assert torch.equal(mask.view(2, tokens, -1)[1], torch.cat([expected, tree], 1))
    assert indptr.tolist() == [0, 28, 56]
    assert skipped.tolist() == [0, 1]


def test_a_chain_keeps_sglangs_window(monkeypatch):
    """Leave a chain alone: a token's place in the batch is its depth."""
    monkeypatch.setattr(exact_tree_window, "_is_tree", lambda: False)
    hook = hook_of(exact_tree_window.PATCH, "around", "_forward_extend_kernel")
    given = tuple(range(14))
    passed = []

    def kernel(backend, layer, *arguments, **options):
        passed.append((arguments, options))

    hook(kernel, None, None, *given, sliding_window_size=31)
    assert passed == [(given, {"sliding_window_size": 31})]
