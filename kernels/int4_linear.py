# SPDX-License-Identifier: Apache-2.0
"""Multiply activations by packed INT4 weights, for every number of tokens; twin of `int4_ref`.

The launch configurations are those of NVFP4, whose weights have the same size (`nvfp4_dispatch`).
"""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._packed_linear import run_linear
from sglang_gemma4_ext.kernels.activation import Activation
from sglang_gemma4_ext.kernels.int4_checks import check_weight
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config


def int4_linear(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """Compute x w^T + bias, w = (code - zero) * scale, decoded in registers.

    x: bf16 or fp16 [..., K], the last dimension contiguous, one stride for all rows; fp32 in the
        interpreter only
    packed: uint8 [N, K/2], two codes a byte, low nibble first; contiguous, K a multiple of 32
    scale: bf16, fp16 or fp32 [N, G], contiguous; a group K/G is a power of two from 32 on, or K
    zero: int32 [N/8, G], eight rows a word, contiguous; None for a zero of 8
    bias: [N] in x's dtype, or None
    activation: None, or the act of act(gate) * up, gate being the first N/2 rows and up the others
    config: None for the choice of `nvfp4_dispatch`; its splits are not used
    Returns [..., N], or [..., N/2] with an activation, in x's dtype. Weights are rounded once to
    that dtype, exact with a scale per row. Products accumulate in fp32, the result is rounded once.
    Raises ValueError on a shape, dtype or stride that does not fit.
    """
    _, k = check_weight(packed, scale, zero, dim=2)
    return run_linear("int4", x, (packed, scale, zero), k, bias, activation, config)
