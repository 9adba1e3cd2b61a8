# SPDX-License-Identifier: Apache-2.0
"""Compare the router kernel with PyTorch's routing, including ties, NaN and infinities."""

from __future__ import annotations

import pytest
import torch

from sglang_gemma4_ext.kernels.router import route, route_ref
from tests.kernels.poison import poison_allocations

# fp32 inside, for all dtypes of logits: a softmax of K terms, ex2.approx and one division.
TOLERANCE = 1e-6
# Tolerance for PyTorch's own result, computed in the dtype of the logits.
TORCH_TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}
DTYPES = tuple(TORCH_TOLERANCE)
SIZES = ((128, 8), (64, 4), (256, 8), (8, 2), (100, 6))
INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


def drawn(tokens: int, experts: int, dtype: torch.dtype, device: str, seed: int = 0):
    g = torch.Generator().manual_seed(seed + tokens * 1000 + experts)
    logits = (torch.randn(tokens, experts, generator=g) * 3).to(dtype)
    # Representable in BF16, as in a checkpoint, so that PyTorch does not round it again.
    scale = (torch.rand(experts, generator=g) * 0.75 + 0.25).bfloat16().float()
    return logits.to(device), scale.to(device)


def torch_routing(logits: torch.Tensor, scale: torch.Tensor, k: int) -> torch.Tensor:
    """Compute weights [T, k] in PyTorch, every step in the dtype of the logits."""
    ids = route_ref(logits, scale, k)[1].long()
    return torch.softmax(logits.gather(-1, ids), dim=-1) * scale[ids].to(logits.dtype)


def assert_routed(logits, scale, k, got=None) -> torch.Tensor:
    weights, ids = route(logits, scale, k) if got is None else got
    want, want_ids = route_ref(logits.double(), scale, k)
    assert (weights.dtype, ids.dtype) == (torch.float32, torch.int32)
    assert torch.equal(ids, want_ids)
    torch.testing.assert_close(
        weights.double(), want, rtol=0, atol=TOLERANCE * scale.abs().max().item(), equal_nan=True
    )
    return weights


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("experts", "k"), SIZES)
@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 64, 128, 1024, 2048])
def test_equals_torch(tokens, experts, k, dtype, device) -> None:
    """BF16 and FP16 logits of these sizes tie often, so this also tests ties."""
    logits, scale = drawn(tokens, experts, dtype, device)
    weights = assert_routed(logits, scale, k)
    theirs = torch_routing(logits, scale, k)
    torch.testing.assert_close(weights, theirs.float(), rtol=0, atol=TORCH_TOLERANCE[dtype])
    if tokens:
        exact = torch_routing(logits.double(), scale, k)
        assert (weights - exact).abs().max() <= (theirs - exact).abs().max() + TOLERANCE


def test_gemma_softmaxes_over_all_experts_and_renormalizes(device) -> None:
    """Compare transformers' definition with the softmax over the chosen experts alone."""
    logits, scale = drawn(32, 128, torch.float32, device)
    weights, ids = route(logits, scale, 8)
    every = torch.softmax(logits.double(), dim=-1)
    best, at = torch.topk(every, 8)
    assert torch.equal(ids.long(), at)
    want = best / best.sum(-1, keepdim=True) * scale.double()[at]
    torch.testing.assert_close(weights.double(), want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("row", "ids"),
    [
        ([0.0] * 8, [0, 1, 2]),
        ([1.0, 2.0, 2.0, 1.0, 2.0, 0.0, 0.0, 0.0], [1, 2, 4]),
        ([1.0, 2.0, 1.0, 1.0, 2.0, 0.0, 0.0, 0.0], [1, 4, 0]),
        ([-0.0, 0.0, -0.0, 0.0, -1.0, -1.0, -1.0, -1.0], [0, 1, 2]),
        ([-1.0, 0.0, -0.0, -0.0, 0.0, -1.0, -1.0, -1.0], [1, 2, 3]),
        ([-3.0, -2.0, -2.0, -5.0, -2.0, -2.0, -3.0, -3.0], [1, 2, 4]),
    ],
)
def test_ties_go_to_the_lower_id(row, ids, dtype, device) -> None:
    logits = torch.tensor([row, row], dtype=dtype, device=device)
    scale = torch.linspace(0.5, 1, 8, device=device)
    assert_routed(logits, scale, 3)
    assert route(logits, scale, 3)[1].tolist() == [ids, ids]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinities(dtype, device) -> None:
    """The order is NaN, +inf, numbers, -inf; weights are NaN where the softmax is."""
    rows = {
        (1.0, NAN, 2.0, INF, -INF, 0.0): ([1, 3, 2], True),
        (NAN, NAN, NAN, NAN, NAN, NAN): ([0, 1, 2], True),
        (1.0, INF, 2.0, INF, -INF, 0.0): ([1, 3, 2], True),
        (-INF, -INF, -INF, -INF, -INF, -INF): ([0, 1, 2], True),
        (-INF, -INF, -INF, 7.0, -INF, -INF): ([3, 0, 1], False),
        (-INF, 3.0, -INF, 7.0, -INF, -INF): ([3, 1, 0], False),
    }
    logits = torch.tensor(list(rows), dtype=dtype, device=device)
    logits[1, 2] = -logits[1, 2]  # a NaN whose sign bit is set
    weights = assert_routed(logits, torch.ones(6, device=device), 3)
    assert route(logits, torch.ones(6, device=device), 3)[1].tolist() == [
        i for i, _ in rows.values()
    ]
    assert weights.isnan().all(-1).tolist() == [nan for _, nan in rows.values()]
    assert not weights[4:].isnan().any()


@pytest.mark.parametrize("layout", ["every other row", "every other column", "transposed"])
def test_logits_need_not_be_contiguous(layout, device) -> None:
    big, scale = drawn(66, 66, torch.bfloat16, device)
    logits = {
        "every other row": big[::2],
        "every other column": big[:, ::2],
        "transposed": big.T,
    }[layout]
    assert not logits.is_contiguous()
    assert_routed(logits, scale[: logits.shape[1]].contiguous(), 5)


@pytest.mark.parametrize(("experts", "k"), [(1, 1), (2, 2), (33, 33), (128, 100), (1024, 16)])
def test_any_k_and_up_to_1024_experts(experts, k, device) -> None:
    assert_routed(*drawn(5, experts, torch.float32, device), k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_scale_has_any_dtype(dtype, device) -> None:
    logits, scale = drawn(9, 64, torch.float32, device)
    assert_routed(logits, scale.to(dtype), 4)


def test_repeated_rows_are_routed_alike(device) -> None:
    logits, scale = drawn(1, 128, torch.bfloat16, device)
    weights = assert_routed(logits.expand(300, 128), scale, 8)
    assert torch.equal(weights, weights[:1].expand_as(weights))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"logits": torch.zeros(8)}, r"logits must be \[T, E\]"),
        ({"logits": torch.zeros(2, 8, dtype=torch.int32)}, "fp32, bf16 or fp16, not"),
        ({"logits": torch.zeros(2, 1025)}, "E must be 1 to 1024, got 1025"),
        ({"k": 9}, "k must be 1 to E = 8, got 9"),
        ({"k": 0}, "k must be 1 to E = 8, got 0"),
        ({"expert_scale": torch.ones(7)}, r"expert_scale must be \[8\]"),
        ({"expert_scale": torch.ones(16)[::2]}, "contiguous"),
        ({"expert_scale": torch.ones(8).double()}, "expert_scale is fp32, bf16 or fp16"),
    ],
)
def test_bad_input_is_refused(change, match) -> None:
    given = {"logits": torch.zeros(2, 8), "expert_scale": torch.ones(8), "k": 2}
    with pytest.raises(ValueError, match=match):
        route(**{**given, **change})
