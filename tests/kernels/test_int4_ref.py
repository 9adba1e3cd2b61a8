# SPDX-License-Identifier: Apache-2.0
"""Compare the INT4 format with compressed-tensors' own code, and its references with float64."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from torch.nn.functional import gelu, silu

from sglang_gemma4_ext.kernels import int4_format
from sglang_gemma4_ext.kernels.int4_ref import int4_experts_ref, int4_linear_ref
from tests.kernels.int4_oracle import draw_int4
from tests.kernels.oracle import error

# fp32: a sum of K products; bf16: one rounding of the weights, one of the result.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128, None])
def test_codes_equal_those_of_compressed_tensors(group, zeros) -> None:
    g = torch.Generator().manual_seed(0)
    strategy = "group" if group else "channel"
    args = QuantizationArgs(
        num_bits=4, type="int", strategy=strategy, group_size=group, symmetric=not zeros
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    groups = 256 // (group or 256)
    scale = torch.rand(24, groups, generator=g) * 0.01 + 0.001
    state = {"weight": torch.randn(24, 256, generator=g) * 0.02, "weight_scale": scale}
    points = torch.randint(-8, 8, (24, groups), generator=g, dtype=torch.int8)
    state["weight_zero_point"] = points if zeros else torch.zeros_like(points)
    packed = PackedQuantizationCompressor.compress(state, scheme)
    want = PackedQuantizationCompressor.decompress(packed, scheme)["weight"]
    codes = int4_format.as_bytes(packed["weight_packed"])
    zero = packed["weight_zero_point"] if zeros else None
    got = int4_format.dequantize(codes, scale, zero, torch.float32)
    assert torch.equal(got, want)


@pytest.mark.parametrize("zeros", [False, True])
def test_the_weight_is_exact(zeros) -> None:
    weight = draw_int4(3, 16, 128, zeros=zeros)
    got = int4_format.dequantize(*weight, torch.float32)
    assert torch.equal(got.double(), weight.exact)


def test_mismatched_shapes_and_dtypes_are_refused() -> None:
    packed, scale, zero = draw_int4(16, 128)
    with pytest.raises(ValueError, match="packed must be uint8"):
        int4_format.dequantize(packed.int(), scale, zero, torch.float32)
    with pytest.raises(ValueError, match="do not divide codes"):
        int4_format.dequantize(packed, scale[:, :3], zero, torch.float32)
    with pytest.raises(ValueError, match="zero points must be"):
        int4_format.dequantize(packed, scale, zero[:1], torch.float32)
    with pytest.raises(ValueError, match="zero points must be int32"):
        int4_format.zero_points(zero.float())
    with pytest.raises(ValueError, match="packed words must be int32"):
        int4_format.as_bytes(packed)
    with pytest.raises(ValueError, match="x has K = 64, packed has 128"):
        int4_linear_ref(torch.ones(2, 64), packed, scale, zero)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n", "k", "group"), [(8, 32, 32), (64, 704, 64), (256, 2816, None)])
@pytest.mark.parametrize("zeros", [False, True])
def test_linear_equals_float64(n, k, group, zeros, dtype) -> None:
    x = torch.randn(7, k, generator=torch.Generator().manual_seed(1)).to(dtype)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(2)).to(dtype)
    weight = draw_int4(n, k, group=group, zeros=zeros)
    got = int4_linear_ref(x, *weight, bias)
    assert got.dtype == dtype
    assert error(got, x.double() @ weight.exact.T + bias.double()).rms < TOLERANCE[dtype]


def test_linear_is_computed_in_chunks_of_whole_words() -> None:
    """Chunks of 13,104 rows: zero points of eight rows are together."""
    weight, x = draw_int4(16_400, 320), torch.randn(2, 320)
    got = int4_linear_ref(x, *weight)
    assert error(got, x.double() @ weight.exact.T).rms < TOLERANCE[torch.float32]


@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
@pytest.mark.parametrize("zeros", [False, True])
def test_experts_equal_float64(zeros, activation) -> None:
    w13, w2 = draw_int4(4, 64, 64, zeros=zeros), draw_int4(4, 64, 32, zeros=zeros, seed=1)
    g = torch.Generator().manual_seed(5)
    x, weights = torch.randn(6, 64, generator=g), torch.rand(6, 2, generator=g)
    ids = torch.rand(6, 4, generator=g).topk(2).indices.int()
    ids[2, 1] = -1
    want = torch.zeros(6, 64, dtype=torch.float64)
    for token, slot in (ids >= 0).nonzero():
        expert = int(ids[token, slot])
        gate, up = (w13.of(expert).exact @ x[token].double()).chunk(2)
        act = silu(gate) if activation == "silu" else gelu(gate, approximate="tanh")
        want[token] += weights[token, slot].double() * (w2.of(expert).exact @ (act * up))
    got = int4_experts_ref(x, ids, weights, *w13, *w2, activation)
    assert error(got, want).rms < 4e-6
