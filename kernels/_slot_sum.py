# SPDX-License-Identifier: Apache-2.0
"""Add the results of a token's expert slots in their order; experts of every format use this."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

SUM_COLUMNS = 512


@triton.jit
def _sum_slots_kernel(y_ptr, topk_ids_ptr, out_ptr, N, TOP_K: tl.constexpr, COLUMNS: tl.constexpr):
    """out [T, N]: the sum of a token's slots, y [T * k, N], that have an expert, in fp32."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    # Unrolled, so that all rows are on their way at once.
    for i in tl.static_range(TOP_K):
        slot = token * TOP_K + i
        # The row of a slot without an expert is not written.
        inside = (column < N) & (tl.load(topk_ids_ptr + slot) >= 0)
        total += tl.load(y_ptr + slot * N + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * N + column, total.to(out_ptr.dtype.element_ty), mask=column < N)


def sum_slots(y: torch.Tensor, topk_ids: torch.Tensor, out: torch.Tensor) -> None:
    """Write to out [T, N] the fp32 sum of y over each token's slots with an expert.

    y: floating [T * k, N], contiguous; rows of negative ids are not read
    topk_ids: int32 or int64 [T, k], contiguous
    out: floating [T, N], contiguous; the sum is rounded once
    """
    count, columns = out.shape
    _sum_slots_kernel[(count, triton.cdiv(columns, SUM_COLUMNS))](
        y, topk_ids, out, columns, TOP_K=topk_ids.shape[1], COLUMNS=SUM_COLUMNS
    )
