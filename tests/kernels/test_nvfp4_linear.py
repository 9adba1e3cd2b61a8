# SPDX-License-Identifier: Apache-2.0
"""Compare the fused NVFP4 linear with float64 at the shapes of Gemma 4."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, silu

from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config, choose
from sglang_gemma4_ext.kernels.nvfp4_linear import nvfp4_linear
from sglang_gemma4_ext.kernels.nvfp4_ref import nvfp4_linear_ref
from tests.kernels.oracle import Error, Weight, draw, error
from tests.kernels.poison import poison_allocations

TOKENS = (1, 2, 3, 7, 8, 16, 17, 63, 64)
# The result is rounded once; fp32 sums K products in another order. `worst` is per element: where a
# sum cancels, its error is a few times the RMS.
TOLERANCE = {
    torch.bfloat16: Error(3e-3, 1e-2),
    torch.float16: Error(4e-4, 2e-3),
    torch.float32: Error(1e-6, 1e-5),
}
SMALL = Config(block_m=8, block_n=32, block_k=64)

# K of every linear of Gemma 4 and its shards, with few rows: N changes only the number of programs.
ALL_K = (1536, 2560, 3840, 4096, 8192, 15360, 2112, 2816, 5376, 16384, 21504, 704, 352, 176, 928)
# One full-size linear of each model: 12B o, 26B-A4B o and dense down, 31B o.
FULL = ((3840, 4096), (2816, 4096), (2816, 2112), (5376, 8192))


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


def _x(tokens: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(tokens, k, generator=torch.Generator().manual_seed(tokens)).to(dtype)


def _check(
    x: torch.Tensor, weight: Weight, got: torch.Tensor, want: torch.Tensor, bias=None
) -> None:
    """Require the tolerance, and at most twice the error of torch's matmul in x's dtype."""
    assert got.dtype == x.dtype
    assert got.shape == want.shape
    ours, limit = error(got, want), TOLERANCE[x.dtype]
    assert ours.rms <= limit.rms, ours
    assert ours.worst <= limit.worst, ours
    plain = error(torch.nn.functional.linear(x, weight.exact.to(x.dtype), bias), want)
    assert ours.rms <= 2 * plain.rms, (ours, plain)


def _linear(x: torch.Tensor, weight: Weight, device: str, **options) -> torch.Tensor:
    on_device = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
    return nvfp4_linear(x.to(device), *weight.to(device), **on_device).cpu()


# Only the interpreter takes FP32 activations.
dtypes = pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        torch.float16,
        pytest.param(torch.float32, marks=pytest.mark.interpreter),
    ],
    ids=str,
)


@dtypes
@pytest.mark.parametrize("tokens", TOKENS)
def test_every_number_of_tokens(tokens, dtype, device) -> None:
    x, weight = _x(tokens, 704, dtype), draw(72, 704)
    config = choose("linear", torch.device(device), tokens, 2816, 704)
    got = _linear(x, weight, device, config=config)
    _check(x, weight, got, x.double() @ weight.exact.T)


@pytest.mark.parametrize("k", ALL_K)
def test_every_in_features_of_gemma4_and_its_shards(k, device) -> None:
    x, weight = _x(3, k, torch.bfloat16), draw(40, k)
    _check(x, weight, _linear(x, weight, device), x.double() @ weight.exact.T)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), FULL)
@pytest.mark.parametrize("tokens", [1, 17])
def test_full_size(tokens, n, k, device) -> None:
    x, weight = _x(tokens, k, torch.bfloat16), draw(n, k)
    _check(x, weight, _linear(x, weight, device), x.double() @ weight.exact.T)


@pytest.mark.parametrize("splits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("n", "k"), [(33, 704), (16, 512), (1, 64), (2, 16)])
def test_splits_of_k_with_bias(splits, n, k, device) -> None:
    """Some cases have more splits than tiles of K, so some programs add nothing."""
    x, weight = _x(5, k, torch.float16), draw(n, k)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(1)).half()
    config = Config(8, 32, 64, splits)
    got = _linear(x, weight, device, bias=bias, config=config)
    _check(x, weight, got, x.double() @ weight.exact.T + bias.double(), bias)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
@pytest.mark.parametrize(("tokens", "columns"), [(1, 40), (17, 7)])
def test_gate_and_up_with_activation(tokens, columns, activation, splits, device) -> None:
    x, weight = _x(tokens, 176, torch.float16), draw(2 * columns, 176, parts=2)
    bias = torch.randn(2 * columns, generator=torch.Generator().manual_seed(1)).half()
    config = Config(16, 32, 64, splits)
    options = {"bias": bias, "activation": activation, "config": config}
    got = _linear(x, weight, device, **options)
    gate, up = (x.double() @ weight.exact.T + bias.double()).chunk(2, dim=-1)
    act = silu(gate) if activation == "silu" else gelu(gate, approximate="tanh")
    assert error(got, act * up).rms <= TOLERANCE[torch.float16].rms


def test_stacked_linears_keep_their_scales(device) -> None:
    x, weight = _x(2, 64, torch.float16), draw(96, 64, parts=3)
    weight.row[32:64] *= 1000
    got = _linear(x, weight, device, config=SMALL)
    for part in range(3):
        rows = slice(32 * part, 32 * part + 32)
        assert error(got[:, rows], x.double() @ weight.exact[rows].T).rms < 4e-4


@dtypes
def test_the_smallest_weights_are_not_lost(dtype, device) -> None:
    """Check half of E4M3's smallest subnormal, and its largest times 6: exact in every dtype."""
    packed = torch.full((32, 32), 0x11, dtype=torch.uint8)
    packed[16:] = 0xFF
    block = torch.full((32, 4), 2.0**-9).to(torch.float8_e4m3fn)
    block[16:] = 448.0
    weight = Weight(packed, block, torch.ones(32))
    x = torch.zeros(1, 64, dtype=dtype)
    x[0, 5] = 1
    got = nvfp4_linear(x.to(device), *weight.to(device), config=SMALL).cpu()
    assert torch.equal(got.double(), weight.exact[:, 5].unsqueeze(0).to(dtype).double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("tokens", "launches"), [(1, 3), (64, 8)])
def test_every_pair_of_codes_with_every_scale_is_exact(tokens, launches, dtype, device) -> None:
    """A row has one scale and the bytes 0 to 255; a token picks one of the 512 columns."""
    scales = torch.tensor([b for b in range(256) if b & 0x7F != 0x7F], dtype=torch.uint8)
    block = scales.view(torch.float8_e4m3fn)[:, None].repeat(1, 32)
    packed = torch.arange(256, dtype=torch.uint8).repeat(len(scales), 1)
    weight = Weight(packed, block, torch.ones(len(scales)))
    config = choose("linear", torch.device(device), tokens, 8192, 3840)
    for x in torch.eye(512, dtype=dtype).split(tokens)[:launches]:
        got = _linear(x, weight, device, config=config)
        assert torch.equal(got, (x.double() @ weight.exact.T).to(dtype))


def test_strides_of_x(device) -> None:
    """A misaligned slice of a wider tensor works, and so do leading dimensions."""
    weight = draw(32, 64)
    wide = _x(6, 203, torch.float16).to(device)
    want = nvfp4_linear_ref(wide[:, 3:67].cpu(), *weight)
    got = nvfp4_linear(wide[:, 3:67], *weight.to(device), config=SMALL)
    assert error(got, want.double()).rms < 1e-3
    folded = wide[:, 3:67].unflatten(0, (2, 3))
    assert torch.equal(nvfp4_linear(folded, *weight.to(device), config=SMALL).flatten(0, 1), got)


def test_zero_tokens_give_zero_rows(device) -> None:
    x = torch.empty(0, 64, dtype=torch.float16, device=device)
    assert nvfp4_linear(x, *draw(32, 64).to(device)).shape == (0, 32)


def _bad(**changes):
    given = {"x": torch.ones(2, 64).half(), **draw(32, 64)._asdict(), **changes}
    return [given[name] for name in ("x", "packed", "block", "row")]


@pytest.mark.parametrize(
    ("changes", "options", "match"),
    [
        ({"x": torch.ones(2, 48).half()}, {}, "K is 64"),
        ({"x": torch.ones(2, 64).double()}, {}, "--dtype bfloat16"),
        ({"x": torch.ones(64, 2).half().T}, {}, "last dimension of x"),
        ({"x": torch.ones(3, 2, 64).half().transpose(0, 1)}, {}, "rows of x must have one stride"),
        ({"packed": torch.zeros(32, 32)}, {}, "packed must be uint8"),
        ({"packed": torch.zeros(32, 12, dtype=torch.uint8)}, {}, "multiple of 16"),
        ({"packed": torch.zeros(32, 32, dtype=torch.uint8).T}, {}, "packed must be contiguous"),
        ({"block": torch.ones(32, 8).to(torch.float8_e4m3fn)}, {}, "block_scale must be"),
        ({"block": torch.ones(32, 4)}, {}, "block_scale must be float8_e4m3fn"),
        ({"row": torch.ones(1)}, {}, "row_scale must be float32"),
        ({}, {"bias": torch.ones(32)}, "bias must be"),
        ({}, {"activation": "relu"}, "not gelu_tanh or silu"),
    ],
)
def test_bad_input_is_refused(changes, options, match) -> None:
    with pytest.raises(ValueError, match=match):
        nvfp4_linear(*_bad(**changes), **options)
