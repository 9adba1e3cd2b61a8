# SPDX-License-Identifier: Apache-2.0
"""Compare norm, projection and routing in one launch with float64 and transformers' router."""

from __future__ import annotations

import pytest
import torch

from sglang_gemma4_ext.kernels.router import route
from sglang_gemma4_ext.kernels.router_one_launch import route_one_launch, route_one_launch_ref
from tests.kernels.poison import poison_allocations

# fp32 sums of H products against float64, relative to the largest logit of the row.
LOGIT_TOLERANCE = 2e-6
EPS = 1e-6
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


def drawn(tokens: int, hidden: int, experts: int, dtype: torch.dtype, device: str) -> dict:
    """Draw activations of a residual stream's size, a scale of both signs, small weights."""
    g = torch.Generator().manual_seed(tokens * 1000 + hidden + experts)
    tensors = {
        "x": (torch.randn(tokens, hidden, generator=g) * 40).to(dtype),
        "scale": (torch.randn(hidden, generator=g) * 20).to(dtype),
        "proj": (torch.randn(experts, hidden, generator=g) / 4).to(dtype),
        "expert_scale": (torch.rand(experts, generator=g) + 0.5).to(dtype),
    }
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    arrivals = torch.zeros(max(tokens, 1), dtype=torch.int32, device=device)
    return {**tensors, "eps": EPS, "arrivals": arrivals}


def exact(given: dict, k: int) -> torch.Tensor:
    return route_one_launch_ref(**{**given, "x": given["x"].double()}, k=k)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("tokens", "hidden", "experts", "k"),
    [
        (0, 64, 8, 2),
        (1, 2816, 128, 8),
        (3, 2816, 128, 8),
        (7, 128, 8, 2),
        (2, 1000, 100, 6),
        (16, 1024, 6, 6),
        (2, 1, 3, 1),
    ],
)
def test_equals_float64(tokens, hidden, experts, k, dtype, device) -> None:
    given = drawn(tokens, hidden, experts, dtype, device)
    logits, weights, ids = route_one_launch(**given, k=k)
    assert (logits.dtype, weights.dtype, ids.dtype) == (torch.float32,) * 2 + (torch.int32,)
    want = exact(given, k)
    largest = want.abs().amax(-1, keepdim=True) if tokens else 1.0
    assert ((logits - want).abs() <= LOGIT_TOLERANCE * largest).all()
    chosen, chosen_ids = route(logits, given["expert_scale"], k)
    assert torch.equal(ids, chosen_ids)
    torch.testing.assert_close(weights, chosen, rtol=0, atol=2e-6)
    assert not given["arrivals"].any()


def test_bf16_routes_better_than_torch_in_bf16(device) -> None:
    """PyTorch in BF16 rounds norm, scale and logits, so its error is far larger."""
    given = drawn(4, 2816, 128, torch.bfloat16, device)
    logits, _, ids = route_one_launch(**given, k=8)
    x = torch.nn.functional.rms_norm(given["x"], (2816,), eps=EPS)
    theirs = (x * given["scale"] * 2816**-0.5) @ given["proj"].T
    want = exact(given, 8)
    error, theirs_error = ((got - want).abs().max() for got in (logits, theirs))
    assert error < theirs_error / 100
    assert torch.equal(ids, route(want.float(), given["expert_scale"], 8)[1])


def test_equals_the_router_of_transformers(device) -> None:
    from transformers.models.gemma4 import configuration_gemma4, modeling_gemma4

    config = configuration_gemma4.Gemma4TextConfig(
        hidden_size=192, num_experts=16, top_k_experts=4, enable_moe_block=True
    )
    router = modeling_gemma4.Gemma4TextRouter(config).to(device)
    given = drawn(6, 192, 16, torch.float32, device)
    with torch.no_grad():
        router.scale.copy_(given["scale"])
        router.proj.weight.copy_(given["proj"])
        router.per_expert_scale.copy_(given["expert_scale"])
        _, want, want_ids = router(given["x"])
    _, weights, ids = route_one_launch(**{**given, "eps": config.rms_norm_eps}, k=4)
    assert torch.equal(ids.long(), want_ids)
    torch.testing.assert_close(weights, want, rtol=0, atol=1e-5)


def test_the_counters_are_reused_by_later_launches(device) -> None:
    given = drawn(5, 64, 8, torch.float32, device)
    first = route_one_launch(**given, k=2)
    for tokens in (1, 5, 3):
        again = route_one_launch(**{**given, "x": given["x"][:tokens]}, k=2)
        assert all(torch.equal(now, then[:tokens]) for now, then in zip(again, first, strict=True))


def test_rows_need_not_be_adjacent(device) -> None:
    given = drawn(4, 64, 8, torch.float32, device)
    wide = torch.cat([given["x"], torch.full_like(given["x"], torch.nan)], dim=1)
    apart = route_one_launch(**{**given, "x": wide[:, :64]}, k=2)
    assert torch.equal(apart[0], route_one_launch(**given, k=2)[0])


def test_only_the_outputs_are_allocated(device) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Allocations(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            # The interpreter copies with empty_like, and makes tensors without elements.
            if function in (torch.ops.aten.empty.memory_format, torch.ops.aten.zeros.default):
                sizes.append(tuple(args[0]))
            return function(*args, **(kwargs or {}))

    given, sizes = drawn(2, 64, 8, torch.float32, device), []
    with Allocations():
        route_one_launch(**given, k=3)
    assert [size for size in sizes if size != (0,)] == [(2, 8), (2, 3), (2, 3)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_launch_follows_its_inputs() -> None:
    given = drawn(4, 2816, 128, torch.bfloat16, "cuda")
    route_one_launch(**given, k=8)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = route_one_launch(**given, k=8)
    for seed in range(20):
        torch.manual_seed(seed)
        given["x"].normal_()
        given["expert_scale"].uniform_(0.5, 1.5)
        graph.replay()
        want = route_one_launch_ref(**given, k=8)
        torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-3)
        chosen, ids = route(got[0], given["expert_scale"], 8)
        assert torch.equal(got[2], ids)
        torch.testing.assert_close(got[1], chosen, rtol=0, atol=2e-6)
        assert not given["arrivals"].any()


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_row_with_nan_or_infinity_stays_in_range_and_affects_no_other(odd, device) -> None:
    given = drawn(3, 64, 8, torch.float32, device)
    given["x"][1, 5] = odd
    _, weights, ids = route_one_launch(**given, k=2)
    assert weights.isnan().any(-1).tolist() == [False, True, False]
    assert ids[1].tolist() == [0, 1]
    assert not given["arrivals"].any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x": torch.zeros(2, 8, 1)}, "x must be rows"),
        ({"x": torch.zeros(8, 2).T}, "x must be rows"),
        ({"x": torch.zeros(2, 8).double()}, "x is fp32, bf16 or fp16, not"),
        ({"proj": torch.zeros(4, 9)}, r"proj must be \[E, 8\]"),
        ({"scale": torch.zeros(9)}, r"scale must be \[8\]"),
        ({"k": 5}, "k must be 1 to E = 4"),
        ({"arrivals": torch.zeros(1, dtype=torch.int32)}, "arrivals must be int32 and hold 2"),
        ({"arrivals": torch.zeros(2)}, "arrivals must be int32"),
    ],
)
def test_bad_input_is_refused(change, match) -> None:
    given = {
        "x": torch.zeros(2, 8),
        "scale": torch.ones(8),
        "proj": torch.zeros(4, 8),
        "expert_scale": torch.ones(4),
        "k": 2,
        "eps": EPS,
        "arrivals": torch.zeros(2, dtype=torch.int32),
    }
    with pytest.raises(ValueError, match=match):
        route_one_launch(**{**given, **change})
