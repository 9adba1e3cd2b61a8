# SPDX-License-Identifier: Apache-2.0
"""Check the tensors of the attention kernels, and view keys and values as the kernels read them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sglang_gemma4_ext.kernels._require import require

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
HEAD_DIMS = (32, 64, 128, 256, 512)
MAX_GROUP = 16


class Pair(NamedTuple):
    """Hold keys and values [rows, Hkv, D]; of E4M3 as int16 [rows, Hkv, D / 2], two bytes each."""

    k: torch.Tensor
    v: torch.Tensor
    e4m3: bool


def kv_pair(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *names: str) -> Pair:
    """Check keys and values against the queries. Raises ValueError."""
    for name, tensor in zip(names, (k, v), strict=True):
        require(
            tensor.dim() == 3 and tensor.shape[2] == q.shape[-1] and tensor.stride(2) == 1,
            "%s must be [rows, heads, D], contiguous in D = %d, got %s",
            *(name, q.shape[-1], tensor.shape),
        )
    require(k.shape == v.shape, "%s is %s, %s is %s", names[0], k.shape, names[1], v.shape)
    require(
        k.dtype == v.dtype and k.dtype in (q.dtype, torch.float8_e4m3fn),
        "%s and %s must be %s or float8_e4m3fn, got %s and %s",
        *(*names, q.dtype, k.dtype, v.dtype),
    )
    if k.dtype == torch.float8_e4m3fn:
        return Pair(k.view(torch.int16), v.view(torch.int16), True)
    return Pair(k, v, False)


def require_q(q: torch.Tensor, pair: Pair) -> int:
    """Check the queries [T, Hq, D]; return the query heads that share a key head."""
    require(q.dim() == 3 and q.stride(2) == 1, "q must be [T, heads, D], got %s", q.shape)
    require(q.dtype in DTYPES, "q is bf16, fp16 or fp32, not %s", q.dtype)
    require(q.shape[2] in HEAD_DIMS, "D must be one of %s, got %d", HEAD_DIMS, q.shape[2])
    heads, kv_heads = q.shape[1], pair.k.shape[1]
    require(
        heads % kv_heads == 0 and heads // kv_heads <= MAX_GROUP,
        "%d query heads do not share %d key heads in groups of at most 16",
        *(heads, kv_heads),
    )
    return heads // kv_heads
