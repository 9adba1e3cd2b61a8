# SPDX-License-Identifier: Apache-2.0
"""Multiply activations by FP8 weights on any GPU from SM80 on; twin of `fp8_ref`.

Activations stay in BF16 or FP16: FP8 is a format of storage here, and needs no FP8 tensor core.
"""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._packed_linear import run_linear
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.fp8_checks import check_weight
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config


def fp8_linear(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """Compute x w^T + bias, w = code * scale, decoded in registers.

    x: bf16 or fp16 [..., K], the last dimension contiguous, one stride for all rows; fp32 in the
        interpreter only
    codes: uint8 [N, K], E4M3, contiguous, without NaN; K a multiple of 16
    scale: fp32 [N/R, G], contiguous; R rows share scales; G is 1, or K/128 rounded up
    bias: [N] in x's dtype, or None
    activation: None, or the act of act(gate) * up, gate being the first N/2 rows and up the others
    config: None for the choice of `nvfp4_dispatch`; its splits are not used
    Returns [..., N], or [..., N/2] with an activation, in x's dtype. Codes are exact in that dtype,
    products accumulate in fp32 and are scaled there, and the result is rounded once.
    Raises ValueError on a shape, dtype or stride that does not fit.
    """
    k = check_weight(codes, scale, dim=2)
    return run_linear("fp8", x, (codes, scale, None), k, bias, activation, config)
