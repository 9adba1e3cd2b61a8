# SPDX-License-Identifier: Apache-2.0
"""Check the tensors that the FP8 kernels take."""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.fp8_format import scales_a_row

# In-features are a multiple of a 16-byte load.
K_MULTIPLE = 16


def check_weight(codes: torch.Tensor, scale: torch.Tensor, dim: int) -> int:
    """Check the codes and scales of `dim` dimensions; return the in-features K.

    Raises ValueError.
    """
    require(
        codes.dtype == torch.uint8 and codes.dim() == dim,
        "codes must be uint8 with %d dimensions, got %s %s",
        dim,
        codes.dtype,
        codes.shape,
    )
    k = codes.shape[-1]
    require(k % K_MULTIPLE == 0, "K must be a multiple of %d, the codes have %d", K_MULTIPLE, k)
    fits = scale.dim() == dim and scale.shape[:-2] == codes.shape[:-2]
    fits = fits and scale.shape[-2] > 0 and codes.shape[-2] % scale.shape[-2] == 0
    require(
        scale.dtype == torch.float32 and fits and scale.shape[-1] in (1, scales_a_row(k, True)),
        "scale must be float32 %s, for all or for 128 in-features of R rows; got %s %s for K = %d",
        (*codes.shape[:-2], f"{codes.shape[-2]}/R", "G"),
        scale.dtype,
        scale.shape,
        k,
    )
    require(codes.is_contiguous(), "codes must be contiguous")
    require(scale.is_contiguous(), "scale must be contiguous")
    return k
