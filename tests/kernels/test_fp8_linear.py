# SPDX-License-Identifier: Apache-2.0
"""Compare the fused FP8 linear with float64, at the shapes of Gemma 4."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, silu

from sglang_gemma4_ext.kernels import fp8_format
from sglang_gemma4_ext.kernels.fp8_linear import fp8_linear
from sglang_gemma4_ext.kernels.fp8_ref import fp8_linear_ref
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config, choose
from tests.kernels.fp8_oracle import Fp8, draw_fp8
from tests.kernels.oracle import Error, error
from tests.kernels.poison import poison_allocations

# Weights are exact; the result is rounded once; fp32 sums in another order.
TOLERANCE = {
    torch.bfloat16: Error(4e-3, 2e-2),
    torch.float16: Error(6e-4, 4e-3),
    torch.float32: Error(1e-6, 1e-5),
}
SMALL = Config(block_m=8, block_n=32, block_k=64)
# In-features of Gemma 4 and its shards. Neither 128 nor 256 divides all.
ALL_K = (1536, 2112, 2816, 5376, 704, 352, 176)

blocks = pytest.mark.parametrize("blocks", [False, True], ids=["rows", "blocks"])
dtypes = pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float16, pytest.param(torch.float32, marks=pytest.mark.interpreter)],
    ids=str,
)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


def _x(tokens: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(tokens, k, generator=torch.Generator().manual_seed(tokens)).to(dtype)


def _check(x, weight: Fp8, got, bias=None) -> None:
    assert got.dtype == x.dtype
    want = x.double() @ weight.exact.T
    found, limit = error(got, want), TOLERANCE[x.dtype]
    assert found.rms <= limit.rms, found
    assert found.worst <= limit.worst, found
    assert found.rms <= 2 * error(fp8_linear_ref(x, *weight, bias), want).rms


def _linear(x: torch.Tensor, weight: Fp8, device: str, **options) -> torch.Tensor:
    on_device = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
    return fp8_linear(x.to(device), *weight.to(device), **on_device).cpu()


@blocks
@dtypes
@pytest.mark.parametrize(
    "tokens", [17, *(pytest.param(t, marks=pytest.mark.slow) for t in (1, 64))]
)
def test_every_number_of_tokens(tokens, dtype, blocks, device) -> None:
    x, weight = _x(tokens, 704, dtype), draw_fp8(72, 704, blocks=blocks)
    config = choose("packed", torch.device(device), tokens, 2816, 704)
    _check(x, weight, _linear(x, weight, device, config=config))


@blocks
@pytest.mark.parametrize("k", [704, *(pytest.param(k, marks=pytest.mark.slow) for k in ALL_K)])
def test_every_in_features_of_gemma4_and_its_shards(k, blocks, device) -> None:
    x, weight = _x(3, k, torch.bfloat16), draw_fp8(40, k, blocks=blocks)
    _check(x, weight, _linear(x, weight, device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_code_is_exact(dtype, device) -> None:
    """One activation of one picks a weight; the scale is one."""
    codes = torch.arange(256, dtype=torch.uint8).reshape(4, 64)
    codes[(codes & 0x7F) == 0x7F] = 0
    weight = Fp8(codes, torch.ones(4, 1))
    for x in torch.eye(64, dtype=dtype).split(16):
        got = _linear(x, weight, device, config=SMALL)
        assert torch.equal(got, (x.double() @ weight.exact.T).to(dtype))


@blocks
@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
def test_gate_and_up_with_bias_and_activation(activation, blocks, device) -> None:
    x, weight = _x(17, 160, torch.float16), draw_fp8(16, 160, blocks=blocks)
    bias = torch.randn(16, generator=torch.Generator().manual_seed(1)).half()
    options = {"bias": bias, "activation": activation, "config": Config(16, 32, 64)}
    got = _linear(x, weight, device, **options)
    gate, up = (x.double() @ weight.exact.T + bias.double()).chunk(2, dim=-1)
    act = silu(gate) if activation == "silu" else gelu(gate, approximate="tanh")
    assert error(got, act * up).rms <= TOLERANCE[torch.float16].rms


def test_rows_with_equal_scales_share_them(device) -> None:
    x, weight = _x(3, 320, torch.bfloat16), draw_fp8(192, 320, blocks=True)
    scale = weight.scale[::64].repeat_interleave(64, 0)
    whole, joined = Fp8(weight.codes, scale), fp8_format.shared(scale)
    assert joined.shape == (3, 3)
    got = _linear(x, Fp8(weight.codes, joined), device)
    assert torch.equal(got, _linear(x, whole, device))
    assert torch.equal(fp8_linear_ref(x, weight.codes, joined), fp8_linear_ref(x, *whole))
    assert fp8_format.shared(weight.scale) is weight.scale
    assert fp8_format.shared(torch.ones(2, 256, 3)).shape == (2, 2, 3)
    assert fp8_format.shared(torch.ones(256, 1)).shape == (256, 1)


def test_strides_of_x_and_an_empty_batch(device) -> None:
    weight, wide = draw_fp8(32, 64), _x(6, 203, torch.float16)
    got = _linear(wide[:, 3:67], weight, device, config=SMALL)
    assert error(got, wide[:, 3:67].double() @ weight.exact.T).rms < 1e-3
    assert _linear(wide[:0, :64], weight, device).shape == (0, 32)


def test_the_reference_is_exact() -> None:
    for blocks in (False, True):
        weight, x = draw_fp8(40, 320, blocks=blocks), torch.eye(320)
        want = weight.exact.T.float()
        torch.testing.assert_close(fp8_linear_ref(x, *weight), want, rtol=0, atol=0)
    every = torch.arange(256, dtype=torch.uint8)[None]
    kept = every[(every & 0x7F) != 0x7F][None]
    got = fp8_format.dequantize(kept, torch.ones(1, 1), torch.float64)
    assert torch.equal(got, kept.view(torch.float8_e4m3fn).double())


@pytest.mark.parametrize(
    ("scale", "blocks"),
    [
        (torch.tensor(0.5), False),
        (torch.tensor([0.5]), True),
        (torch.arange(300.0), False),
        (torch.arange(300.0)[:, None].bfloat16(), False),
        (torch.arange(6.0).reshape(3, 2), True),
        (torch.arange(6.0).reshape(3, 1, 2, 1), True),  # ModelOpt's
    ],
)
def test_scales_of_every_strategy_are_spread_over_rows(scale, blocks) -> None:
    got = fp8_format.spread(scale, 300, 200, blocks)
    assert got.shape == (300, 2 if blocks else 1)
    assert got.dtype == torch.float32
    assert got.is_contiguous()
    for row in (0, 127, 128, 299):
        want = scale.float().reshape(3, 2) if scale.dim() == 4 else scale.float()
        if scale.numel() > 1:
            want = want[row // 128] if blocks else want[row]
        assert torch.equal(got[row], want.expand(got.shape[1]))


@pytest.mark.parametrize("shape", [(299,), (300, 2), (2, 2)])
def test_scales_of_another_shape_are_refused(shape) -> None:
    for blocks in (False, True):
        with pytest.raises(ValueError, match="are expected"):
            fp8_format.spread(torch.ones(shape), 300, 200, blocks)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": torch.ones(2, 48).half()}, "K is 64"),
        ({"x": torch.ones(2, 64).double()}, "--dtype bfloat16"),
        ({"codes": torch.zeros(32, 64)}, "codes must be uint8"),
        ({"codes": torch.zeros(32, 24, dtype=torch.uint8)}, "multiple of 16"),
        ({"codes": torch.zeros(64, 32, dtype=torch.uint8).T}, "codes must be contiguous"),
        ({"scale": torch.ones(32, 2)}, "for 128 in-features"),
        ({"scale": torch.ones(5, 1)}, "of R rows"),
        ({"scale": torch.ones(32, 1).half()}, "scale must be float32"),
    ],
)
def test_bad_input_is_refused(changes, match) -> None:
    given = {"x": torch.ones(2, 64).half(), **draw_fp8(32, 64)._asdict(), **changes}
    with pytest.raises(ValueError, match=match):
        fp8_linear(given["x"], given["codes"], given["scale"])
