# SPDX-License-Identifier: Apache-2.0
"""Place the tokens of a draft tree in cache slots, in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch


def extend_cache_locs(
    *,
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    batch_size: int,
    draft_token_num: int,
    device: Any,
) -> torch.Tensor:
    """Return the cache slots of positions start to end of each request, request after request.

    SGLang's seam is SRTPlatform.get_speculative_cache_locs_fn.

    req_pool_indices: int [batch], rows of req_to_token
    req_to_token: int32 [requests, context]
    start_offset, end_offset: int [batch]; each span is at most draft_token_num long
    Returns int64 [batch * draft_token_num]; the rest is zero, SGLang's padding slot.
    """
    out = torch.zeros(batch_size * draft_token_num, dtype=torch.int64, device=device)
    spans = zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist(), strict=True)
    found = torch.cat([req_to_token[row, start:end] for row, start, end in spans])
    out[: found.numel()] = found
    return out
