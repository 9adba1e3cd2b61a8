# SPDX-License-Identifier: Apache-2.0
"""Build the mask of a draft tree over a sliding window, by tensor operations of fixed shape."""

from __future__ import annotations

import torch


def tree_window_mask(
    mask: torch.Tensor,
    mask_indptr: torch.Tensor,
    kv_indptr: torch.Tensor,
    *,
    tokens: int,
    distance: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take the tree out of whole-sequence masks and put each token's window before it.

    A token of depth d, counted from zero, is d positions after the L cached keys. It sees those at
    most `distance` before it.

    mask: bool, one after the other the B requests' [tokens, L + tokens]; a token sees itself and
        its ancestors in the last `tokens` columns
    mask_indptr: int [>= B + 1], where each request's part starts
    kv_indptr: int [B + 1], prefix sums of min(L, distance): the cached keys that are attended
    distance: from a query to the oldest key that it sees, the window minus one
    Returns three tensors: mask bool [B * tokens * (distance + tokens)], its indptr int64 [B + 1],
    and int64 [B], the columns before each request's first attended key.
    """
    batch = kv_indptr.shape[0] - 1
    starts = mask_indptr[: batch + 1].long()
    cached = (starts[1:] - starts[:-1]) // tokens - tokens
    node = torch.arange(tokens, device=mask.device)
    row = starts[:-1, None] + node * (cached[:, None] + tokens) + cached[:, None]
    tree = mask[row[:, :, None] + node] != 0
    depth = tree.sum(-1, keepdim=True) - 1
    window = torch.arange(distance, device=mask.device) >= depth
    width = distance + tokens
    indptr = torch.arange(batch + 1, device=mask.device) * (tokens * width)
    attended = (kv_indptr[1:] - kv_indptr[:-1]).long()
    return torch.cat([window, tree], -1).flatten(), indptr, distance - attended
