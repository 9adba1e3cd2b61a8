# SPDX-License-Identifier: Apache-2.0
"""Compare the NVFP4 format with IEEE arithmetic in numpy and with the tools' own code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.nvfp4 import pack_fp4_to_uint8, unpack_fp4_from_uint8

from sglang_gemma4_ext.kernels import nvfp4_format as nvfp4

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def e2m1_float64(code: int) -> float:
    exponent, mantissa = (code >> 1) & 3, code & 1
    value = mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
    return -value if code & 8 else value


def e4m3_float64(byte: int) -> float:
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    significand = mantissa / 8 if exponent == 0 else 1 + mantissa / 8
    value = significand * 2.0 ** (max(exponent, 1) - 7)
    return -value if byte & 128 else value


def every_code_under_every_scale() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Build packed [256, 8] and block_scale [256, 1]; row b has 16 codes and the E4M3 byte b."""
    codes = torch.arange(16, dtype=torch.uint8).expand(256, 16)
    block_scale = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).unsqueeze(1)
    product = np.outer(
        [e4m3_float64(byte) for byte in range(256)], [e2m1_float64(code) for code in range(16)]
    )
    return nvfp4.pack_e2m1(codes), block_scale, product


def random_weights(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view({4: torch.int32, 2: torch.int16, 1: torch.uint8}[x.element_size()])


@pytest.mark.parametrize("scale", [1.0, 0.3, 1.4e-4, 7.25e-9])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dequantize_is_exact_for_every_code_and_scale(scale: float, dtype: torch.dtype) -> None:
    packed, block_scale, product = every_code_under_every_scale()
    tensor_scale = torch.tensor(scale, dtype=torch.float32)
    got = nvfp4.dequantize(packed, block_scale, tensor_scale, dtype)
    # 6 bits of the product times 24 of the scale are exact in float64, so this rounds once.
    once = (product * np.float64(tensor_scale.item())).astype(np.float32)
    want = torch.from_numpy(once).to(dtype)
    assert torch.equal(got.isnan(), want.isnan())
    finite = ~want.isnan()
    assert torch.equal(bits(got)[finite], bits(want)[finite])
    as_fp32 = nvfp4.dequantize(packed, block_scale.float(), tensor_scale, dtype)
    assert torch.equal(bits(as_fp32)[finite], bits(want)[finite])


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_e2m1_values_are_exact_and_keep_the_sign_of_zero(dtype: torch.dtype) -> None:
    packed = nvfp4.pack_e2m1(torch.arange(16, dtype=torch.uint8))
    got = nvfp4.e2m1_values(packed, dtype)
    want = torch.tensor([e2m1_float64(code) for code in range(16)], dtype=torch.float64)
    assert torch.equal(got.double(), want)
    assert torch.equal(torch.signbit(got), torch.signbit(want))


def test_pack_and_unpack_are_inverse_on_every_byte() -> None:
    packed = torch.arange(256, dtype=torch.uint8).reshape(2, 4, 32)
    codes = nvfp4.unpack_e2m1(packed)
    assert codes.shape == (2, 4, 64)
    assert torch.equal(codes[..., 0::2], packed % 16)
    assert torch.equal(nvfp4.pack_e2m1(codes), packed)


def test_codes_equal_compressed_tensors() -> None:
    packed = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    theirs = unpack_fp4_from_uint8(packed, 16, 32, dtype=torch.float32)
    assert torch.equal(bits(nvfp4.e2m1_values(packed, torch.float32)), bits(theirs))
    assert torch.equal(pack_fp4_to_uint8(theirs), packed)


def test_quantize_picks_the_nearest_value() -> None:
    w = random_weights(3, 24, 64)
    scale = nvfp4.tensor_scale_for(w.abs().amax())
    packed, block_scale = nvfp4.quantize(w, scale)
    values = torch.tensor([e2m1_float64(code) for code in range(16)], dtype=torch.float64)
    unit = (block_scale.double() * scale.double()).repeat_interleave(16, -1)
    error = (nvfp4.dequantize(packed, block_scale, scale, torch.float32).double() - w).abs()
    best = (values * unit.unsqueeze(-1) - w.double().unsqueeze(-1)).abs().amin(-1)
    assert float((error - best).max()) <= 2**-24 * float(w.abs().max())  # fp32's own rounding
    assert float(error.norm() / w.norm()) < 0.12


def test_quantize_breaks_ties_to_the_even_code() -> None:
    # With 6 in the block and a scale of 1/448, the block's scale is 448 and w is the scaled value.
    midpoints = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    w = torch.tensor([[6.0, *midpoints, *(-m for m in midpoints), 0.0]])
    packed, block_scale = nvfp4.quantize(w, torch.tensor(1 / 448))
    assert block_scale.float().item() == 448
    rounded = [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    want = [6.0, *rounded, *(-r for r in rounded), 0.0]
    assert nvfp4.e2m1_values(packed, torch.float32).tolist() == [want]


def test_quantize_handles_a_zero_block_and_one_far_below_the_scale() -> None:
    w = torch.zeros(2, 16)
    w[1] = 1e-12
    packed, block_scale = nvfp4.quantize(w, torch.tensor(1.0))
    assert block_scale.float().flatten().tolist() == [1.0, nvfp4.E4M3_MIN_SUBNORMAL]
    dequantized = nvfp4.dequantize(packed, block_scale, torch.tensor(1.0), torch.float32)
    assert torch.equal(dequantized, torch.zeros(2, 16))


def test_a_scale_per_row_equals_row_by_row() -> None:
    w = random_weights(5, 32)
    scales = nvfp4.tensor_scale_for(w.abs().amax(-1, keepdim=True))
    packed, block_scale = nvfp4.quantize(w, scales)
    together = nvfp4.dequantize(packed, block_scale, scales, torch.float32)
    for row in range(5):
        one = slice(row, row + 1)
        alone = nvfp4.quantize(w[one], scales[row])
        assert torch.equal(alone[0], packed[one])
        assert torch.equal(nvfp4.dequantize(*alone, scales[row], torch.float32), together[one])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantize_is_bit_for_bit_modelopt(dtype: torch.dtype) -> None:
    modelopt = pytest.importorskip("modelopt.torch.quantization.qtensor.nvfp4_tensor")
    w = random_weights(64, 256, seed=1).to(dtype)
    w[3, :16] = 0
    w[4, :16] *= 1e-7
    scale = nvfp4.tensor_scale_for(w.abs().amax())
    theirs, their_block_scale, their_scale = modelopt.NVFP4QTensor.quantize(w.clone(), 16)
    packed, block_scale = nvfp4.quantize(w, scale)
    assert torch.equal(scale, their_scale)
    assert torch.equal(bits(block_scale), bits(their_block_scale))
    assert torch.equal(packed, theirs._quantized_data)


def test_empty_rows_are_allowed() -> None:
    packed, block_scale = nvfp4.quantize(torch.zeros(0, 32), torch.tensor(1.0))
    assert (packed.shape, block_scale.shape) == ((0, 16), (0, 2))
    dequantized = nvfp4.dequantize(packed, block_scale, torch.tensor(1.0), torch.bfloat16)
    assert dequantized.shape == (0, 32)


ONE = torch.tensor(1.0)
PACKED = torch.zeros(4, 16, dtype=torch.uint8)
BLOCK_SCALE = torch.ones(4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nvfp4.pack_e2m1(torch.zeros(4)), "codes must be uint8, got torch.float32"),
        (lambda: nvfp4.pack_e2m1(PACKED[:, :3]), "K must be even"),
        (lambda: nvfp4.pack_e2m1(PACKED + 16), "codes must be 0 to 15"),
        (lambda: nvfp4.unpack_e2m1(PACKED.int()), "packed must be uint8, got torch.int32"),
        (lambda: nvfp4.quantize(PACKED, ONE), "w must be floating, got torch.uint8"),
        (lambda: nvfp4.quantize(torch.zeros(4, 24), ONE), "K must be a multiple of 16"),
        (lambda: nvfp4.quantize(torch.zeros(4, 32), ONE * 0), "tensor_scale must be positive"),
        (lambda: nvfp4.quantize(torch.zeros(4, 32), torch.ones(4)), r"scalar or \(4, 1\)"),
        (lambda: dequantize(packed=PACKED.int()), "packed must be uint8, got torch.int32"),
        (lambda: dequantize(packed=PACKED[:, :12]), "K must be a multiple of 16"),
        (lambda: dequantize(block_scale=BLOCK_SCALE.half()), "float8_e4m3fn or float32, got"),
        (lambda: dequantize(block_scale=BLOCK_SCALE[:3]), r"must be \(4, 2\), got \(3, 2\)"),
        (lambda: dequantize(tensor_scale=torch.ones(3, 1)), r"scalar or \(4, 1\), got \(3, 1\)"),
        (lambda: dequantize(tensor_scale=torch.ones(1).int()), "tensor_scale must be floating"),
    ],
)
def test_mismatched_shapes_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def dequantize(packed=PACKED, block_scale=BLOCK_SCALE, tensor_scale=ONE) -> torch.Tensor:
    return nvfp4.dequantize(packed, block_scale, tensor_scale, torch.float32)
