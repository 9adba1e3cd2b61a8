# SPDX-License-Identifier: Apache-2.0
"""Compare routed NVFP4 experts, decode and grouped, with float64 over all kinds of routing."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, silu

from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config, choose
from sglang_gemma4_ext.kernels.nvfp4_experts import nvfp4_experts
from sglang_gemma4_ext.kernels.nvfp4_grouped import nvfp4_grouped_experts, sort_slots
from sglang_gemma4_ext.kernels.nvfp4_ref import nvfp4_experts_ref
from tests.kernels.oracle import Weight, draw, error
from tests.kernels.poison import poison_allocations

# RMS and worst error. The result and the activation's result are rounded; the grouped path also
# rounds each slot's product.
TOLERANCE = {torch.bfloat16: (6e-3, 3e-2), torch.float16: (8e-4, 4e-3), torch.float32: (1e-6, 1e-5)}
# Large tiles, because the interpreter's time grows with the number of programs.
FEW_PROGRAMS = Config(block_m=16, block_n=256, block_k=256)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


def _experts(experts: int, hidden: int, inner: int) -> tuple[Weight, Weight]:
    return draw(experts, 2 * inner, hidden, parts=2), draw(experts, hidden, inner, seed=1)


def _routing(tokens: int, experts: int, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(tokens)
    scores = torch.rand(tokens, experts, generator=g)
    weights, ids = scores.topk(top_k, dim=-1)
    return ids.to(torch.int32), weights / weights.sum(-1, keepdim=True)


def _x(tokens: int, hidden: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(3)).to(dtype)


def _exact(x, ids, weights, w13: Weight, w2: Weight, activation="gelu_tanh") -> torch.Tensor:
    """Compute in float64, one slot after another."""
    out = torch.zeros(len(x), w2.packed.shape[1], dtype=torch.float64)
    for token, slot in (ids >= 0).nonzero():
        expert = ids[token, slot]
        up = Weight(*(tensor[expert] for tensor in w13)).exact
        down = Weight(*(tensor[expert] for tensor in w2)).exact
        g, u = (up @ x[token].double()).chunk(2)
        act = silu(g) if activation == "silu" else gelu(g, approximate="tanh")
        out[token] += weights[token, slot].double() * (down @ (act * u))
    return out


def _decode(x, ids, weights, w13, w2, device, activation="gelu_tanh", config=None) -> torch.Tensor:
    given = (t.to(device) for t in (x, ids, weights, *w13, *w2))
    return nvfp4_experts(*given, activation, up_config=config, down_config=config).cpu()


def _grouped(x, ids, weights, w13, w2, device, activation="gelu_tanh", config=None):
    config = config or choose("grouped", torch.device(device), len(x), *w13.packed.shape[1:])
    slots = sort_slots(ids.to(device), config.block_m, len(w13.packed))
    given = (t.to(device) for t in (x, ids, weights, *w13, *w2))
    return nvfp4_grouped_experts(*given, activation, slots=slots, config=config).cpu()


PATHS = {"decode": _decode, "grouped": _grouped}
paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def _check(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    found = error(got, want)
    assert found.rms <= TOLERANCE[dtype][0], found
    assert found.worst <= TOLERANCE[dtype][1], found


@paths
@pytest.mark.parametrize(
    ("tokens", "dtype"),
    [
        *((tokens, torch.bfloat16) for tokens in (1, 2, 3)),
        (2, torch.float16),
        pytest.param(2, torch.float32, marks=pytest.mark.interpreter),
    ],
    ids=str,
)
def test_random_routing(tokens, dtype, path, device) -> None:
    w13, w2 = _experts(8, 96, 48)
    x, (ids, weights) = _x(tokens, 96, dtype), _routing(tokens, 8, 3)
    got = path(x, ids, weights, w13, w2, device)
    want = _exact(x, ids, weights, w13, w2)
    _check(got, want, dtype)
    plain = error(nvfp4_experts_ref(x, ids, weights, *w13, *w2, "gelu_tanh"), want)
    assert error(got, want).rms <= 2 * plain.rms


@paths
@pytest.mark.parametrize("tokens", [7, 8, 16, 17, 63, 64])
def test_more_tokens(tokens, path, device) -> None:
    w13, w2 = _experts(4, 32, 16)
    x, (ids, weights) = _x(tokens, 32, torch.float16), _routing(tokens, 4, 2)
    got = path(x, ids, weights, w13, w2, device, config=FEW_PROGRAMS)
    _check(got, _exact(x, ids, weights, w13, w2), x.dtype)


@paths
@pytest.mark.parametrize("expert", [0, 5])
def test_one_expert_takes_all_and_the_others_none(expert, path, device) -> None:
    w13, w2 = _experts(6, 64, 32)
    x = _x(9, 64, torch.float16)
    ids, weights = torch.full((9, 1), expert, dtype=torch.int64), torch.rand(9, 1)
    _check(path(x, ids, weights, w13, w2, device), _exact(x, ids, weights, w13, w2), x.dtype)


@paths
def test_padding_rows_and_skipped_slots(path, device) -> None:
    """A negative id adds nothing; a token with only negative ids is zero."""
    w13, w2 = _experts(4, 64, 32)
    x, (ids, weights) = _x(9, 64, torch.float16), _routing(9, 4, 2)
    ids[3, 1], ids[5] = -1, -1
    got = path(x, ids, weights, _behind_nan(w13, device), _behind_nan(w2, device), device)
    _check(got, _exact(x, ids, weights, w13, w2), x.dtype)
    assert not got[5].any()


def _behind_nan(weight: Weight, device: str) -> Weight:
    """Put an expert of NaN scales before the others in memory, where id -1 would read."""
    before = Weight(*(torch.zeros_like(tensor[:1]) for tensor in weight))
    before.row.fill_(torch.nan)
    tensors = zip(before, weight, strict=True)
    return Weight(*(torch.cat((nan, own)).to(device)[1:] for nan, own in tensors))


@paths
def test_silu(path, device) -> None:
    w13, w2 = _experts(4, 64, 32)
    x, (ids, weights) = _x(3, 64, torch.float16), _routing(3, 4, 2)
    got = path(x, ids, weights, w13, w2, device, activation="silu")
    _check(got, _exact(x, ids, weights, w13, w2, "silu"), x.dtype)


@paths
@pytest.mark.parametrize("inner", [352, 176])
def test_shards_of_an_expert(inner, path, device) -> None:
    w13, w2 = _experts(2, 64, inner)
    x, (ids, weights) = _x(2, 64, torch.bfloat16), _routing(2, 2, 2)
    _check(path(x, ids, weights, w13, w2, device), _exact(x, ids, weights, w13, w2), x.dtype)


@pytest.mark.slow
@paths
def test_the_26b_in_full(path, device) -> None:
    """The real layer with two tokens: E = 128, K = 2816 and 704, top-8."""
    w13, w2 = _experts(128, 2816, 704)
    x, (ids, weights) = _x(2, 2816, torch.bfloat16), _routing(2, 128, 8)
    _check(path(x, ids, weights, w13, w2, device), _exact(x, ids, weights, w13, w2), x.dtype)


@paths
def test_the_26b_with_few_rows(path, device) -> None:
    """128 experts, K = 2816, top-8, and I = 16."""
    w13, w2 = _experts(128, 2816, 16)
    x, (ids, weights) = _x(1, 2816, torch.bfloat16), _routing(1, 128, 8)
    got = path(x, ids, weights, w13, w2, device, config=FEW_PROGRAMS)
    _check(got, _exact(x, ids, weights, w13, w2), x.dtype)


@paths
def test_no_tokens(path, device) -> None:
    w13, w2 = _experts(2, 32, 16)
    ids, weights = torch.empty(0, 2, dtype=torch.int32), torch.empty(0, 2)
    assert path(_x(0, 32, torch.float16), ids, weights, w13, w2, device).shape == (0, 32)


@pytest.mark.parametrize("block", [8, 16])
def test_sorted_slots_follow_the_layout(block) -> None:
    """Each slot occurs once, in a block of its expert; experts without slots have no block."""
    ids, _ = _routing(37, 8, 3)
    ids[ids == 2], ids[4, 0] = 5, -1
    slots, experts, padded = sort_slots(ids, block, 8)
    kept = slots[: padded.item()]
    real = kept < ids.numel()
    assert sorted(kept[real].tolist()) == torch.where(ids.flatten() >= 0)[0].tolist()
    owner = experts.repeat_interleave(block)[: padded.item()]
    assert torch.equal(owner[real], ids.flatten()[kept[real].long()])
    blocks = padded.item() // block
    assert 2 not in experts[:blocks]
    want = sum(-(-int((ids == e).sum()) // block) for e in range(8))
    assert blocks == want
    assert slots.numel() % block == 0
    assert (slots[padded.item() :] >= ids.numel()).all()


def test_bad_routing_is_refused() -> None:
    w13, w2 = _experts(2, 32, 16)
    x, (ids, weights) = _x(2, 32, torch.float16), _routing(2, 2, 2)
    for bad, match in (
        ((x, ids[:1], weights, *w13, *w2, "silu"), "routing of shape"),
        ((x, ids.float(), weights, *w13, *w2, "silu"), "integer ids"),
        ((x, ids.T, weights.T, *w13, *w2, "silu"), "must be contiguous"),
        ((x, ids, weights, *w13, *w2, "relu"), "not gelu_tanh or silu"),
        ((x, ids, weights, *w13, *w13, "silu"), "not the same experts"),
    ):
        with pytest.raises(ValueError, match=match):
            nvfp4_experts(*bad, up_config=Config(8, 32, 64), down_config=Config(8, 32, 64))
