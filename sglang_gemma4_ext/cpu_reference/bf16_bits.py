# SPDX-License-Identifier: Apache-2.0
"""Convert between fp32 and BF16, which NumPy holds as uint16 bit patterns."""

from __future__ import annotations

import numpy as np


def bf16_to_fp32(bits: np.ndarray) -> np.ndarray:
    """Convert uint16 bit patterns, any shape, to fp32; exact, including NaN payloads."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def fp32_to_bf16(values: np.ndarray) -> np.ndarray:
    """Convert fp32, any shape, to uint16 bit patterns, rounded to nearest even as on GPUs.

    A value beyond the largest finite BF16 becomes infinity; NaN stays NaN.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    quiet_nan = ((bits >> 16) | 0x40).astype(np.uint16)
    return np.where(np.isnan(values), quiet_nan, rounded)
