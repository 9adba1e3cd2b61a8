# SPDX-License-Identifier: Apache-2.0
"""Multiply by an INT8 head, and quantize rows to it."""

from __future__ import annotations

import pytest
import torch

from sglang_gemma4_ext.kernels.int8_head import HeadTile, choose_tile, int8_head
from sglang_gemma4_ext.kernels.int8_rows import dequantize, int8_head_ref, quantize
from tests.kernels.oracle import error
from tests.kernels.poison import poison_allocations

# fp32 sums of up to 2,816 products; one rounding of the result otherwise.
RMS = {torch.float32: 1e-6, torch.bfloat16: 2e-3, torch.float16: 3e-4}
WORST = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


def _draw(n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(n + k)
    codes = torch.randint(-127, 128, (n, k), dtype=torch.int8, generator=draw)
    return codes, torch.rand(n, generator=draw) + 0.1


def _exact(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x.cpu().double() @ codes.double().T * scale.double()


@pytest.mark.parametrize("dtype", RMS, ids=str)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 65, 128), (3, 64, 96), (17, 130, 2816), (33, 7, 16), (65, 1, 1)]
)
def test_equals_float64(m, n, k, dtype, device) -> None:
    codes, scale = _draw(n, k)
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m)).to(dtype)
    got = int8_head(x.to(device), codes.to(device), scale.to(device))
    assert got.dtype == dtype and got.shape == (m, n)
    found = error(got, _exact(x, codes, scale))
    assert found.rms <= RMS[dtype] and found.worst <= WORST[dtype], found
    again = int8_head_ref(x, codes, scale)
    assert error(again, _exact(x, codes, scale)).worst <= WORST[dtype]


def test_logits_in_fp32_are_not_rounded(device) -> None:
    codes, scale = _draw(40, 64)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    got = int8_head(x.to(device), codes.to(device), scale.to(device), torch.float32)
    assert got.dtype == torch.float32
    assert error(got, _exact(x, codes, scale)).worst <= WORST[torch.float32]


def test_every_code_is_exact(device) -> None:
    codes = torch.arange(-128, 128, dtype=torch.int16).to(torch.int8)[:, None].repeat(1, 16)
    x = torch.zeros(1, 16, dtype=torch.bfloat16)
    x[0, 5] = 1
    got = int8_head(x.to(device), codes.to(device), torch.ones(256, device=device), torch.float32)
    assert got[0].tolist() == list(range(-128, 128))


def test_rows_of_a_stride_and_other_tiles(device) -> None:
    codes, scale = _draw(100, 192)
    whole = torch.randn(5, 400, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    x = whole[:, 7:199]
    for tile in (
        HeadTile(16, 32, 64, 4, 2),
        HeadTile(32, 64, 128, 4, 3),
        choose_tile(200, x.dtype),
    ):
        got = int8_head(x.to(device), codes.to(device), scale.to(device), tile=tile)
        assert error(got, _exact(x, codes, scale)).worst <= WORST[torch.bfloat16]
    assert int8_head(x[:0].to(device), codes.to(device), scale.to(device)).shape == (0, 100)


def test_quantized_rows_are_within_half_a_step() -> None:
    draw = torch.Generator().manual_seed(3)
    rows = (torch.randn(9, 64, generator=draw) * 10 ** torch.arange(-4, 5.0)[:, None]).bfloat16()
    rows[4] = 0
    codes, scale = quantize(rows)
    assert codes.dtype == torch.int8 and int(codes.abs().max()) == 127
    assert scale[4] == 1 and not codes[4].any()
    off = (dequantize(codes, scale, torch.float32) - rows.float()).abs()
    assert (off <= scale[:, None] * 0.5001).all()
    # The largest of a row keeps its value up to fp32 rounding.
    largest = rows.float().abs().amax(1)
    assert torch.allclose(dequantize(codes, scale, torch.float32).abs().amax(1), largest, rtol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_refused(bad) -> None:
    rows = torch.ones(3, 4)
    rows[1, 2] = bad
    with pytest.raises(ValueError, match="not finite"):
        quantize(rows)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x": torch.ones(4)}, "x must be floats"),
        ({"x": torch.ones(2, 16, dtype=torch.int8)}, "x must be floats"),
        ({"x": torch.ones(16, 2).T}, "contiguous rows"),
        ({"codes": torch.ones(3, 15, dtype=torch.int8)}, "codes must be int8"),
        ({"codes": torch.ones(3, 16)}, "codes must be int8"),
        ({"codes": torch.ones(3, 32, dtype=torch.int8)[:, ::2]}, "codes and scale"),
        ({"scale": torch.ones(2)}, "scale must be float32"),
        ({"scale": torch.ones(3, dtype=torch.bfloat16)}, "scale must be float32"),
    ],
)
def test_refusals(change, match) -> None:
    given = {"x": torch.ones(2, 16), "codes": torch.ones(3, 16, dtype=torch.int8)}
    given |= {"scale": torch.ones(3)}
    for function in (int8_head, int8_head_ref):
        with pytest.raises(ValueError, match=match):
            function(**given | change)
