# SPDX-License-Identifier: Apache-2.0
"""Multiply a tile of weights of any format but NVFP4 by a tile of activations.

FORMAT is "int4" (`_int4_tile`) or "fp8" (`_byte_tile`). A weight is a tuple of codes
uint8 [.., N, bytes a row], scales [.., N, G] or fewer rows, and zero points or None.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels import _byte_tile, _int4_tile
from sglang_gemma4_ext.kernels._byte_tile import multiply_bytes
from sglang_gemma4_ext.kernels._int4_tile import multiply_int4
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config

Format = Literal["int4", "fp8"]
Weight = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


def launch_arguments(fmt: Format, config: Config, k: int, weight: Weight) -> dict[str, Any]:
    """Build the arguments that every kernel with `multiply` takes, for in-features k."""
    codes, scale, _ = weight
    if fmt == "int4":
        return {"FORMAT": fmt, **_int4_tile.launch_arguments(config, k, scale)}
    return {"FORMAT": fmt, **_byte_tile.launch_arguments(config, k, scale, codes.shape[-2])}


@triton.jit
def multiply(
    x_rows,
    x_mask,
    packed_ptr,
    scale_ptr,
    zero_ptr,
    rows,
    packed_stride,
    scale_stride,
    FORMAT: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS_A_SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    WGMMA: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Compute fp32 [BLOCK_N, BLOCK_M]: w x^T over all of K, by the tile of a format."""
    if FORMAT == "int4":
        acc = multiply_int4(
            x_rows,
            x_mask,
            packed_ptr,
            scale_ptr,
            zero_ptr,
            rows,
            packed_stride,
            scale_stride,
            GROUP,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
            EVEN_K,
            WGMMA,
            PLAIN,
        )
    else:
        acc = multiply_bytes(
            x_rows,
            x_mask,
            packed_ptr,
            scale_ptr,
            rows,
            packed_stride,
            scale_stride,
            GROUP,
            ROWS_A_SCALE,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
            EVEN_K,
            PLAIN,
        )
    return acc
