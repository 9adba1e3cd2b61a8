# SPDX-License-Identifier: Apache-2.0
"""Compare the fused INT4 linear with float64, at the shapes of Gemma 4."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, linear, silu

from sglang_gemma4_ext.kernels.int4_linear import int4_linear
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config, choose
from tests.kernels.int4_oracle import Int4, draw_int4
from tests.kernels.oracle import Error, error
from tests.kernels.poison import poison_allocations

# The weights and the result are rounded once; fp32 sums in another order.
TOLERANCE = {
    torch.bfloat16: Error(4e-3, 2e-2),
    torch.float16: Error(6e-4, 4e-3),
    torch.float32: Error(1e-6, 1e-5),
}
SMALL = Config(block_m=8, block_n=32, block_k=64)
# In-features of linears of Gemma 4 and their shards. Neither 128 nor 256 divides all.
ALL_K = (1536, 2560, 3840, 4096, 2112, 2816, 5376, 704, 352, 1056)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


def _x(tokens: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(tokens, k, generator=torch.Generator().manual_seed(tokens)).to(dtype)


def _check(x, weight: Int4, got, want, bias=None) -> None:
    """Require the tolerance, and at most twice the error of torch's matmul in x's dtype."""
    assert got.dtype == x.dtype and got.shape == want.shape
    ours, limit = error(got, want), TOLERANCE[x.dtype]
    assert ours.rms <= limit.rms, ours
    assert ours.worst <= limit.worst, ours
    assert ours.rms <= 2 * error(linear(x, weight.exact.to(x.dtype), bias), want).rms


def _linear(x: torch.Tensor, weight: Int4, device: str, **options) -> torch.Tensor:
    on_device = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
    return int4_linear(x.to(device), *weight.to(device), **on_device).cpu()


# Only the interpreter takes FP32 activations.
dtypes = pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float16, pytest.param(torch.float32, marks=pytest.mark.interpreter)],
    ids=str,
)
zeros = pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])


@dtypes
@pytest.mark.parametrize("tokens", [1, 3, 8, 17, 64])
def test_every_number_of_tokens(tokens, dtype, device) -> None:
    x, weight = _x(tokens, 704, dtype), draw_int4(72, 704)
    config = choose("packed", torch.device(device), tokens, 2816, 704)
    _check(x, weight, _linear(x, weight, device, config=config), x.double() @ weight.exact.T)


@zeros
@pytest.mark.parametrize("group", [32, 64, 128, 256, None])
@pytest.mark.parametrize("block_k", [pytest.param(32, marks=pytest.mark.slow), 64, 256])
def test_groups_within_a_tile_and_across_tiles(block_k, group, zeros, device) -> None:
    x, weight = _x(3, 768, torch.bfloat16), draw_int4(40, 768, group=group, zeros=zeros)
    got = _linear(x, weight, device, config=Config(8, 32, block_k))
    _check(x, weight, got, x.double() @ weight.exact.T)


@pytest.mark.parametrize("k", ALL_K)
def test_every_in_features_of_gemma4_and_its_shards(k, device) -> None:
    x, weight = _x(3, k, torch.bfloat16), draw_int4(40, k)
    _check(x, weight, _linear(x, weight, device), x.double() @ weight.exact.T)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scales", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_scales_of_every_dtype(scales, dtype, device) -> None:
    x, weight = _x(2, 96, dtype), draw_int4(40, 96, dtype=scales)
    _check(x, weight, _linear(x, weight, device, config=SMALL), x.double() @ weight.exact.T)


@zeros
@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
@pytest.mark.parametrize(("tokens", "columns"), [(1, 40), (17, 8)])
def test_gate_and_up_with_bias_and_activation(tokens, columns, activation, zeros, device) -> None:
    x, weight = _x(tokens, 160, torch.float16), draw_int4(2 * columns, 160, zeros=zeros)
    bias = torch.randn(2 * columns, generator=torch.Generator().manual_seed(1)).half()
    options = {"bias": bias, "activation": activation, "config": Config(16, 32, 64)}
    got = _linear(x, weight, device, **options)
    gate, up = (x.double() @ weight.exact.T + bias.double()).chunk(2, dim=-1)
    act = silu(gate) if activation == "silu" else gelu(gate, approximate="tanh")
    assert error(got, act * up).rms <= TOLERANCE[torch.float16].rms


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
def test_every_byte_with_every_zero_is_exact(zeros, dtype, device) -> None:
    """Sixteen rows have the zeros 0 to 15, and a row has the bytes 0 to 255; scales of one."""
    packed = torch.arange(256, dtype=torch.uint8).repeat(16, 1)
    words = torch.tensor([0x76543210, 0xFEDCBA98 - 2**32], dtype=torch.int32)[:, None]
    scale = torch.ones(16, 16, dtype=dtype)
    weight = Int4(packed, scale, words.repeat(1, 16).contiguous() if zeros else None)
    for x in torch.eye(512, dtype=dtype).split(64)[:3]:
        got = _linear(x, weight, device, config=SMALL)
        assert torch.equal(got, (x.double() @ weight.exact.T).to(dtype))


def test_weights_equal_compressed_tensors_in_bf16(device) -> None:
    """One activation of one picks a weight: bit for bit the code times the scale in BF16."""
    weight = draw_int4(64, 64)
    for x in torch.eye(64, dtype=torch.bfloat16).split(16):
        got = _linear(x, weight, device, config=SMALL)
        assert torch.equal(got, (x.double() @ weight.exact.T).bfloat16())


def test_strides_of_x_and_an_empty_batch(device) -> None:
    weight = draw_int4(32, 64)
    wide = _x(6, 203, torch.float16)
    got = _linear(wide[:, 3:67], weight, device, config=SMALL)
    assert error(got, wide[:, 3:67].double() @ weight.exact.T).rms < 1e-3
    folded = wide[:, 3:67].unflatten(0, (2, 3))
    assert torch.equal(_linear(folded, weight, device, config=SMALL).flatten(0, 1), got)
    assert _linear(wide[:0, :64], weight, device).shape == (0, 32)


def _bad(**changes):
    given = {"x": torch.ones(2, 64).half(), **draw_int4(32, 64)._asdict(), **changes}
    return [given[name] for name in ("x", "packed", "scale", "zero")]


@pytest.mark.parametrize(
    ("changes", "options", "match"),
    [
        ({"x": torch.ones(2, 48).half()}, {}, "K is 64"),
        ({"x": torch.ones(2, 64).double()}, {}, "--dtype bfloat16"),
        ({"packed": torch.zeros(32, 32)}, {}, "packed must be uint8"),
        ({"packed": torch.zeros(32, 8, dtype=torch.uint8)}, {}, "multiple of 32"),
        ({"packed": torch.zeros(32, 32, dtype=torch.uint8).T}, {}, "packed must be contiguous"),
        ({"scale": torch.ones(32, 4)}, {}, "from 32 on"),
        ({"scale": torch.ones(32, 2).double()}, {}, "scale must be bfloat16"),
        ({"scale": torch.ones(2, 32).T}, {}, "scale must be contiguous"),
        ({"zero": torch.ones(4, 1, dtype=torch.int32)}, {}, r"zero must be int32 \(4, 2\)"),
        ({}, {"bias": torch.ones(32)}, "bias must be"),
        ({}, {"activation": "relu"}, "not gelu_tanh or silu"),
    ],
)
def test_bad_input_is_refused(changes, options, match) -> None:
    with pytest.raises(ValueError, match=match):
        int4_linear(*_bad(**changes), **options)
