# SPDX-License-Identifier: Apache-2.0
"""Rearrange the words of GPTQ and AWQ, packed weight by weight, and dequantize them exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sglang_gemma4_ext.kernels import int4_format, int4_words
from tests.checkpoints import int4_words as packed


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [32, -1])
@pytest.mark.parametrize(("tool", "version"), [("gptq", 1), ("gptq", 2), ("awq", 1)])
def test_weights_are_exact(tool, version, group, symmetric) -> None:
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(3))
    tensors, exact = packed.encode(weight, tool, group, symmetric, version)
    if tool == "awq":
        codes = int4_words.codes_of_awq(tensors["qweight"])
        zeros = int4_words.zeros_of_awq(tensors["qzeros"])
    else:
        codes = int4_words.codes_of_gptq(tensors["qweight"])
        zeros = int4_words.zeros_of_gptq(tensors["qzeros"], one_less=version == 1)
    scale = tensors["scales"].T.contiguous()
    got = int4_format.dequantize(int4_format.as_bytes(codes), scale, zeros, torch.float32)
    torch.testing.assert_close(got, exact, rtol=0, atol=0)
    torch.testing.assert_close(packed.decode(tensors, tool, version), exact, rtol=0, atol=0)
    assert int4_words.all_symmetric(zeros) == symmetric


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("group", "unit"), [(32, 32), (64, 64), (-1, 16)])
@pytest.mark.parametrize("version", [1, 2])
def test_int8_is_int4_of_twice_the_in_features(version, group, unit, symmetric) -> None:
    """K = 176 has one scale a row and no power of two above 16."""
    k = 176 if group == -1 else 64
    weight = torch.randn(24, k, generator=torch.Generator().manual_seed(3))
    tensors, exact = packed.encode(weight, "gptq", group, symmetric, version, bits=8)
    copies = k // unit if group == -1 else 1
    scales, zeros = (tensors[leaf].repeat_interleave(copies, 0) for leaf in ("scales", "qzeros"))
    wide = int4_format.dequantize(
        int4_format.as_bytes(int4_words.halves_of_gptq8(tensors["qweight"], unit)),
        int4_words.scales_of_gptq8(scales),
        int4_words.zeros_of_gptq8(zeros, one_less=version == 1),
        torch.float64,
    )
    got = wide.unflatten(1, (-1, 2, unit)).sum(2).flatten(1)
    torch.testing.assert_close(got.float(), exact, rtol=0, atol=0)
    torch.testing.assert_close(packed.decode(tensors, "gptq", version), exact, rtol=0, atol=0)
    x = torch.randn(3, k, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    product = int4_words.repeated(x, unit) @ wide.T
    torch.testing.assert_close(product, x @ exact.double().T, rtol=1e-12, atol=1e-12)


def test_every_nibble_has_its_place() -> None:
    values = np.arange(16).reshape(2, 8) % 16
    awq = packed.pack(np.arange(64).reshape(8, 8) % 16, 1, (0, 2, 4, 6, 1, 3, 5, 7))
    assert awq[0].item() == np.uint32(0x75316420).view(np.int32)
    assert int4_words.codes_of_awq(awq)[1, 0].item() == np.uint32(0x91919191).view(np.int32)
    gptq = packed.pack(values.T, 0)
    assert int4_words.codes_of_gptq(gptq)[0, 0].item() == 0x76543210
    assert int4_words.zeros_of_gptq(packed.pack(values, 1), one_less=True)[0, 1].item() == (
        np.uint32(0x0FEDCBA9).view(np.int32)
    )


def test_other_words_are_refused() -> None:
    for call in (int4_words.codes_of_gptq, int4_words.codes_of_awq, int4_words.zeros_of_awq):
        with pytest.raises(ValueError, match="packed words must be int32"):
            call(torch.zeros(8, 8))
    with pytest.raises(ValueError, match="multiple of 8"):
        int4_words.codes_of_awq(torch.zeros(9, 8, dtype=torch.int32))
