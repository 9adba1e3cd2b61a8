# SPDX-License-Identifier: Apache-2.0
"""Compare the attention reference with a float64 loop written from the definition."""

from __future__ import annotations

import math

import pytest
import torch

from sglang_gemma4_ext.kernels.attention_ref import attend_ref

# fp32 against float64: 2^-24 relative, over sums of at most 300 terms.
TOLERANCE = 1e-5


def by_definition(q, k, v, scale, window):
    out = torch.zeros(q.shape[0], q.shape[1], v.shape[2], dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    first_query = k.shape[0] - q.shape[0]
    for t in range(q.shape[0]):
        position = first_query + t
        oldest = 0 if window is None else max(0, position - window + 1)
        for head in range(q.shape[1]):
            keys = k[oldest : position + 1, head // group].double()
            scores = keys @ q[t, head].double() * scale
            out[t, head] = scores.softmax(0) @ v[oldest : position + 1, head // group].double()
    return out


@pytest.mark.parametrize("window", [None, 1, 7, 32, 33, 64])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 33), (7, 63), (40, 40), (3, 300)])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 32), (4, 1, 64), (3, 3, 16)])
def test_equals_the_definition(window, queries, keys, heads, kv_heads, dim):
    draw = torch.Generator().manual_seed(queries * 1000 + keys)
    q = torch.randn(queries, heads, dim, generator=draw)
    k = torch.randn(keys, kv_heads, dim, generator=draw)
    v = torch.randn(keys, kv_heads, dim // 2, generator=draw)
    scale = 1 / math.sqrt(dim)
    expected = by_definition(q, k, v, scale, window)
    torch.testing.assert_close(
        attend_ref(q, k, v, scale=scale, window=window).double(), expected,
        rtol=TOLERANCE, atol=TOLERANCE,
    )  # fmt: skip


@pytest.mark.parametrize("window", [None, 3, 5, 64])
def test_a_tree_equals_each_of_its_branches_as_a_sequence(window):
    """The branches are 0 - 1 - 4, 0 - 2 and 0 - 3; each token sees only its ancestors."""
    branches = {0: [0], 1: [0, 1], 2: [0, 2], 3: [0, 3], 4: [0, 1, 4]}
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(5, 4, 32, generator=draw)
    k, v = torch.randn(12, 2, 32, generator=draw), torch.randn(12, 2, 32, generator=draw)
    tree = torch.zeros(5, 5, dtype=torch.bool)
    for token, path in branches.items():
        tree[token, path] = True
    out = attend_ref(q, k, v, scale=0.2, window=window, tree=tree)
    for token, path in branches.items():
        seen = [*range(7), *(7 + node for node in path)]
        expected = by_definition(q[[token]], k[seen], v[seen], 0.2, window)
        torch.testing.assert_close(out[[token]].double(), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_inconsistent_shapes_are_refused():
    q, k = torch.zeros(3, 4, 8), torch.zeros(2, 2, 8)
    with pytest.raises(ValueError, match="more than"):
        attend_ref(q, k, k, scale=1.0)
    with pytest.raises(ValueError, match="not a multiple"):
        attend_ref(q, torch.zeros(3, 3, 8), torch.zeros(3, 3, 8), scale=1.0)
