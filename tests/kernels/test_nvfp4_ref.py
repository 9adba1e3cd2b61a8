# SPDX-License-Identifier: Apache-2.0
"""Compare the NVFP4 linear and experts references with float64 on the same weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, silu

from sglang_gemma4_ext.kernels import nvfp4_ref as ref
from sglang_gemma4_ext.kernels.nvfp4_format import dequantize, e2m1_values

# fp32: a sum of K products. BF16: one rounding of the weights, one of the result.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


def _weight(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw packed [.., N, K/2], block scales, and row scales that differ between rows."""
    *rows, k = shape
    draw = torch.Generator().manual_seed(seed)
    packed = torch.randint(0, 256, (*rows, k // 2), generator=draw, dtype=torch.uint8)
    block = (torch.rand(*rows, k // 16, generator=draw) * 4 + 0.1).to(torch.float8_e4m3fn)
    return packed, block, torch.rand(*rows, generator=draw) * 0.02 + 0.01


def _exact(packed: torch.Tensor, block: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """Compute the weight in float64, independent of `dequantize`."""
    values = e2m1_values(packed, torch.float64).unflatten(-1, (-1, 16))
    return (values * block.double().unsqueeze(-1)).flatten(-2) * row.double().unsqueeze(-1)


def _error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want).pow(2).mean().sqrt() / want.pow(2).mean().sqrt()).item()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n", "k"), [(1, 16), (7, 48), (96, 128), (63, 704), (256, 2816)])
@pytest.mark.parametrize("t", [1, 7, 63])
def test_linear_equals_float64(t: int, n: int, k: int, dtype: torch.dtype) -> None:
    x = torch.randn(t, k, generator=torch.Generator().manual_seed(1)).to(dtype)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(2)).to(dtype)
    weight = _weight(n, k)
    got = ref.nvfp4_linear_ref(x, *weight, bias)
    assert got.dtype == dtype
    assert _error(got, x.double() @ _exact(*weight).T + bias.double()) < TOLERANCE[dtype]


def test_linear_keeps_leading_dimensions_and_takes_an_empty_batch() -> None:
    weight = _weight(32, 64)
    x = torch.randn(2, 3, 64)
    alone = ref.nvfp4_linear_ref(x[1], *weight)
    torch.testing.assert_close(ref.nvfp4_linear_ref(x, *weight)[1], alone)
    assert ref.nvfp4_linear_ref(torch.empty(0, 64), *weight).shape == (0, 32)


def test_linear_never_dequantizes_more_than_its_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 65_536 + 5
    weight, x, sizes = _weight(n, 16), torch.randn(3, 16), []

    def watched(packed: torch.Tensor, *args: object) -> torch.Tensor:
        sizes.append(len(packed))
        return dequantize(packed, *args)

    monkeypatch.setattr(ref, "dequantize", watched)
    got = ref.nvfp4_linear_ref(x, *weight, torch.ones(n))
    assert sizes == [16_384] * 4 + [5]
    assert _error(got, x.double() @ _exact(*weight).T + 1) < TOLERANCE[torch.float32]


def test_linear_refuses_mismatched_shapes() -> None:
    packed, block, row = _weight(32, 64)
    with pytest.raises(ValueError, match="x has K = 48, packed has 64"):
        ref.nvfp4_linear_ref(torch.randn(2, 48), packed, block, row)
    with pytest.raises(ValueError, match="row_scale must be"):
        ref.nvfp4_linear_ref(torch.randn(2, 64), packed, block, row[:1])
    with pytest.raises(ValueError, match="block_scale must be"):
        ref.nvfp4_linear_ref(torch.randn(2, 64), packed, block[:, :2], row)


def _experts(x, ids, weights, w13, w2, act) -> torch.Tensor:
    out = torch.zeros(x.shape, dtype=torch.float64)
    gate_up, down = _exact(*w13), _exact(*w2)
    for t in range(len(x)):
        for i, weight in zip(ids[t].tolist(), weights[t].tolist(), strict=True):
            gate, up = (gate_up[i] @ x[t].double()).chunk(2)
            out[t] += weight * (down[i] @ (act(gate) * up))
    return out


@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
@pytest.mark.parametrize("t", [1, 7, 63])
def test_experts_equal_float64(t: int, activation: str) -> None:
    experts, hidden, inner = 8, 64, 48
    draw = torch.Generator().manual_seed(t)
    x = torch.randn(t, hidden, generator=draw)
    ids = torch.rand(t, experts, generator=draw).topk(2).indices.int()
    weights = torch.rand(t, 2, generator=draw)
    w13, w2 = _weight(experts, 2 * inner, hidden), _weight(experts, hidden, inner, seed=1)
    act = silu if activation == "silu" else lambda v: gelu(v, approximate="tanh")
    got = ref.nvfp4_experts_ref(x, ids, weights, *w13, *w2, activation)
    assert _error(got, _experts(x, ids, weights, w13, w2, act)) < 4e-6


def test_experts_skip_negative_ids_and_take_an_empty_batch() -> None:
    w13, w2 = _weight(4, 32, 32), _weight(4, 32, 16, seed=1)
    ids, weights = torch.tensor([[1, -1]]), torch.tensor([[0.5, 9.0]])
    x = torch.randn(1, 32)
    skipped = ref.nvfp4_experts_ref(x, ids, weights, *w13, *w2, "silu")
    alone = ref.nvfp4_experts_ref(x, ids[:, :1], weights[:, :1], *w13, *w2, "silu")
    assert torch.equal(skipped, alone)
    none = ref.nvfp4_experts_ref(x[:0], ids[:0], weights[:0], *w13, *w2, "silu")
    assert none.shape == (0, 32)


def test_experts_refuse_another_activation_and_routing() -> None:
    w13, w2 = _weight(4, 32, 32), _weight(4, 32, 16, seed=1)
    x, ids = torch.randn(3, 32), torch.zeros(3, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match="relu2"):
        ref.nvfp4_experts_ref(x, ids, torch.ones(3, 2), *w13, *w2, "relu2")
    with pytest.raises(ValueError, match="routing of shape"):
        ref.nvfp4_experts_ref(x, ids, torch.ones(3, 1), *w13, *w2, "silu")
