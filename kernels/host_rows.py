# SPDX-License-Identifier: Apache-2.0
"""Gather rows of a table in pinned host memory, read over the bus by the GPU itself.

Captured CUDA graphs need no copy on the host: the kernel follows the token ids of each replay. No
row is fetched ahead, since a step's tokens are known only when the last step has sampled them. A
decoded token of E4B reads 21.5 KB.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._require import require

# Elements a program copies; 2 KiB of BF16, in accesses of 16 bytes.
BLOCK = 1024


@triton.jit
def _host_rows_kernel(table_ptr, ids_ptr, out_ptr, width, BLOCK: tl.constexpr):
    """Copy a block of one row: out [tokens, width] from table [rows, width]."""
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(ids_ptr + token).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    values = tl.load(table_ptr + row * width + column, mask=inside, other=0)
    tl.store(out_ptr + token * width + column, values, mask=inside)


def host_rows(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return table[ids] on the device of ids.

    table: [rows, width], contiguous, in pinned host memory, or on the device of ids
    ids: int32 or int64 of any shape, contiguous, each in [0, rows); not checked
    Returns [*ids.shape, width] in the table's dtype. Raises ValueError.
    """
    require(table.dim() == 2 and table.is_contiguous(), "table must be contiguous [rows, width]")
    require(ids.dtype in (torch.int32, torch.int64), "ids must be integers, got %s", ids.dtype)
    require(ids.is_contiguous(), "ids must be contiguous")
    on_device = table.device == ids.device or table.is_pinned()
    require(on_device, "a table in host memory must be pinned, or a GPU cannot read it")
    width = table.shape[1]
    out = torch.empty((*ids.shape, width), dtype=table.dtype, device=ids.device)
    if ids.numel():
        grid = (ids.numel(), triton.cdiv(width, BLOCK))
        _host_rows_kernel[grid](table, ids, out, width, BLOCK=BLOCK)
    return out
