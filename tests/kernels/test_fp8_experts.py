# SPDX-License-Identifier: Apache-2.0
"""Compare routed FP8 experts, decode and grouped, with float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu

from sglang_gemma4_ext.kernels.fp8_experts import fp8_experts
from sglang_gemma4_ext.kernels.fp8_ref import fp8_experts_ref
from sglang_gemma4_ext.kernels.nvfp4_dispatch import choose
from sglang_gemma4_ext.kernels.nvfp4_grouped import sort_slots
from tests.kernels.fp8_oracle import Fp8, draw_fp8
from tests.kernels.oracle import error
from tests.kernels.poison import poison_allocations

# RMS and worst error. The activation's result and the result are rounded; the grouped path also
# rounds each slot's product.
TOLERANCE = {torch.bfloat16: (8e-3, 4e-2), torch.float16: (1e-3, 5e-3), torch.float32: (1e-6, 1e-5)}
paths = pytest.mark.parametrize("grouped", [False, True], ids=["decode", "grouped"])
blocks = pytest.mark.parametrize("blocks", [False, True], ids=["rows", "blocks"])


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


def _draw(tokens: int, dtype: torch.dtype, experts=4, hidden=96, inner=160, blocks=False):
    w13 = draw_fp8(experts, 2 * inner, hidden, blocks=blocks)
    w2 = draw_fp8(experts, hidden, inner, blocks=blocks, seed=1)
    x = torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(3)).to(dtype)
    scores = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(tokens))
    weights, ids = scores.topk(2, dim=-1)
    return x, ids.to(torch.int32), weights, w13, w2


def _exact(x, ids, weights, w13: Fp8, w2: Fp8) -> torch.Tensor:
    """Compute in float64, one slot after another."""
    out = torch.zeros(len(x), w2.codes.shape[1], dtype=torch.float64)
    for token, slot in (ids >= 0).nonzero():
        expert = int(ids[token, slot])
        g, u = (w13.of(expert).exact @ x[token].double()).chunk(2)
        y = w2.of(expert).exact @ (gelu(g, approximate="tanh") * u)
        out[token] += weights[token, slot].double() * y
    return out


def _run(x, ids, weights, w13, w2, device, grouped) -> torch.Tensor:
    options = {}
    if grouped:
        config = choose("grouped", torch.device(device), len(x), w13.codes.shape[1], x.shape[1])
        slots = sort_slots(ids.to(device), config.block_m, len(w13.codes))
        options = {"config": config, "slots": slots}
    given = (tensor.to(device) for tensor in (x, ids, weights, *w13, *w2))
    return fp8_experts(*given, "gelu_tanh", **options).cpu()


@paths
@blocks
@pytest.mark.parametrize(
    ("tokens", "dtype"),
    [
        (1, torch.bfloat16),
        pytest.param(3, torch.float16, marks=pytest.mark.slow),
        pytest.param(2, torch.float32, marks=[pytest.mark.interpreter, pytest.mark.slow]),
    ],
    ids=str,
)
def test_random_routing(tokens, dtype, blocks, grouped, device) -> None:
    drawn = _draw(tokens, dtype, blocks=blocks)
    got, want = _run(*drawn, device, grouped), _exact(*drawn)
    found, (rms, worst) = error(got, want), TOLERANCE[dtype]
    assert got.dtype == dtype
    assert found.rms <= rms, found
    assert found.worst <= worst, found
    *routed, w13, w2 = drawn
    plain = error(fp8_experts_ref(*routed, *w13, *w2, "gelu_tanh"), want)
    assert found.rms <= 2 * plain.rms


@pytest.mark.slow
@paths
def test_padding_rows_and_skipped_slots(grouped, device) -> None:
    """A negative id adds nothing; a token with only negative ids is zero."""
    x, ids, weights, w13, w2 = _draw(9, torch.float16, hidden=64, inner=32)
    ids[3, 1], ids[5] = -1, -1
    got = _run(x, ids, weights, w13, w2, device, grouped)
    found = error(got, _exact(x, ids, weights, w13, w2))
    assert found.rms <= TOLERANCE[x.dtype][0]
    assert not got[5].any()


def test_bad_input_is_refused() -> None:
    x, ids, weights, w13, w2 = _draw(3, torch.float16, hidden=64, inner=32)
    with pytest.raises(ValueError, match="are not the same experts"):
        fp8_experts(x, ids, weights, *w13, *draw_fp8(4, 64, 64), "silu")
    with pytest.raises(ValueError, match="scale must be float32"):
        fp8_experts(x, ids, weights, *w13, w2.codes, w2.scale.half(), "silu")
