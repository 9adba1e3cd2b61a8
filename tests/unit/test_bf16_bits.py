# SPDX-License-Identifier: Apache-2.0
"""Compare all 65,536 BF16 bit patterns, and roundings between them, with PyTorch's BF16."""

from __future__ import annotations

import numpy as np
import torch

from sglang_gemma4_ext.cpu_reference.bf16_bits import bf16_to_fp32, fp32_to_bf16

ALL = np.arange(1 << 16, dtype=np.uint16)


def _torch_bf16(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)


def test_widening_is_exact_for_every_pattern():
    expected = _torch_bf16(ALL).float().numpy().view(np.uint32)
    np.testing.assert_array_equal(bf16_to_fp32(ALL).view(np.uint32), expected)


def test_narrowing_undoes_widening():
    values = bf16_to_fp32(ALL)
    finite = ~np.isnan(values)
    np.testing.assert_array_equal(fp32_to_bf16(values)[finite], ALL[finite])
    assert np.isnan(bf16_to_fp32(fp32_to_bf16(values[~finite]))).all()


def test_narrowing_rounds_to_nearest_even_everywhere():
    """Round values whose lower half is at, just below and just above each rounding point."""
    for low in (0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = ((ALL.astype(np.uint32) << 16) | low).view(np.float32)
        values = values[~np.isnan(values)]
        expected = torch.from_numpy(values.copy()).bfloat16().view(torch.int16).numpy()
        np.testing.assert_array_equal(fp32_to_bf16(values), expected.view(np.uint16))
