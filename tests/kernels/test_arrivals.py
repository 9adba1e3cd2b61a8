# SPDX-License-Identifier: Apache-2.0
"""Check the counters that launches share, and what the last program of a tile adds."""

from __future__ import annotations

import pytest
import torch

from sglang_gemma4_ext.kernels import _arrivals
from sglang_gemma4_ext.kernels._arrivals import KEPT, counters, keep_none
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config
from sglang_gemma4_ext.kernels.nvfp4_experts import nvfp4_experts
from sglang_gemma4_ext.kernels.nvfp4_linear import nvfp4_linear
from sglang_gemma4_ext.kernels.nvfp4_ref import nvfp4_linear_ref
from tests.kernels.oracle import draw, error
from tests.kernels.poison import poison_allocations

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)
    monkeypatch.setattr(_arrivals, "_kept", {})
    monkeypatch.setattr(_arrivals, "_keeps", True)


def _linear(splits: int, columns: int, device: str, tokens: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(columns)
    x = torch.randn(tokens, 320, generator=g).half().to(device)
    weight = draw(columns, 320).to(device)
    return nvfp4_linear(x, *weight, config=Config(8, 32, 64, splits))


def test_launches_of_one_stream_find_the_zeros_that_the_last_one_left(device) -> None:
    """Run linears of other sizes and experts in turn; each uses the same counters."""
    first = [_linear(splits, n, device) for splits, n in ((5, 200), (2, 33), (3, 200))]
    (kept,) = _arrivals._kept.values()
    assert not kept.any()
    w13, w2 = draw(3, 96, 64).to(device), draw(3, 64, 48).to(device)
    ids = torch.tensor([[0, 2], [-1, 1]], dtype=torch.int32, device=device)
    x, weights = torch.ones(2, 64, device=device).half(), torch.ones(2, 2, device=device)
    config = Config(8, 32, 64)
    configs = {"up_config": config, "down_config": config}
    routed = [nvfp4_experts(x, ids, weights, *w13, *w2, "silu", **configs) for _ in range(2)]
    assert torch.equal(*routed)
    assert not kept.any()
    again = [_linear(splits, n, device) for splits, n in ((5, 200), (2, 33), (3, 200))]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(_arrivals._kept) == 1


def test_the_parts_are_added_in_their_order(device) -> None:
    """Three parts of 2^24, 1 and -2^24 give 0 in their order, and 1 in some others."""
    packed = torch.zeros(32, 96, dtype=torch.uint8)
    packed[:, ::32] = 0x02  # 1.0
    block = torch.full((32, 12), 1.0).to(torch.float8_e4m3fn)
    x = torch.zeros(1, 192, dtype=torch.bfloat16)
    x[0, 0], x[0, 64], x[0, 128] = 2.0**24, 1.0, -(2.0**24)
    given = (packed, block, torch.ones(32))
    config = Config(8, 32, 64, 3)
    got = nvfp4_linear(x.to(device), *(t.to(device) for t in given), config=config)
    assert torch.equal(got.cpu(), torch.zeros(1, 32, dtype=torch.bfloat16))


def test_counters_are_kept_by_stream_and_cleared_where_they_cannot_be_kept(monkeypatch) -> None:
    kept = counters(CPU, 7)
    assert kept.shape == (KEPT,)
    assert counters(CPU, KEPT) is kept
    many = counters(CPU, KEPT + 1)
    assert many.shape == (KEPT + 1,)
    assert not many.any()
    keep_none()
    kept.fill_(3)
    fresh = counters(CPU, 7)
    assert fresh.shape == (7,)
    assert not fresh.any()
    assert counters(CPU, 7) is not fresh


def test_a_capture_keeps_no_counters(monkeypatch) -> None:
    """Its memory is cleared when the graph is replayed, so nothing else may rely on it."""
    monkeypatch.setattr(_arrivals, "_is_capturing", lambda device: True)
    captured = counters(CPU, 7)
    assert captured.shape == (7,)
    assert not _arrivals._kept
    monkeypatch.setattr(_arrivals, "_is_capturing", lambda device: False)
    kept = counters(CPU, 7)
    monkeypatch.setattr(_arrivals, "_is_capturing", lambda device: True)
    assert counters(CPU, 7) is kept


def test_without_kept_counters_the_result_is_the_same(device) -> None:
    want = _linear(5, 70, device)
    keep_none()
    assert torch.equal(_linear(5, 70, device), want)
    assert not _arrivals._kept


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replays_of_two_linears_on_two_streams() -> None:
    """Capture a linear on the graph's stream beside another one on a second stream."""
    second = torch.cuda.Stream()
    xs = [torch.randn(1, 4096, device="cuda").bfloat16() for _ in range(2)]
    weights = [draw(n, 4096).to("cuda") for n in (3840, 2816)]

    def step() -> list[torch.Tensor]:
        second.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(second):
            beside = nvfp4_linear(xs[1], *weights[1])
        out = [nvfp4_linear(xs[0], *weights[0]), beside]
        torch.cuda.current_stream().wait_stream(second)
        return out

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    for seed in range(50):
        torch.manual_seed(seed)
        for x in xs:
            x.normal_()
        graph.replay()
        eager = step()
        for x, weight, y, z in zip(xs, weights, got, eager, strict=True):
            assert torch.equal(y, z)
            assert error(y, nvfp4_linear_ref(x.double(), *weight)).rms < 3e-3
    torch.cuda.synchronize()
    assert not any(kept.any() for kept in _arrivals._kept.values())
