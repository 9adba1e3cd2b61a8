# SPDX-License-Identifier: Apache-2.0
"""Compare routed INT4 experts, decode and grouped, with float64 over every kind of routing."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, silu

from sglang_gemma4_ext.kernels.int4_experts import int4_experts
from sglang_gemma4_ext.kernels.int4_ref import int4_experts_ref
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config, choose
from sglang_gemma4_ext.kernels.nvfp4_grouped import sort_slots
from tests.kernels.int4_oracle import Int4, draw_int4
from tests.kernels.oracle import error
from tests.kernels.poison import poison_allocations

# RMS and worst error. Weights, the activation's result and the result are rounded; the grouped
# path also rounds each slot's product.
TOLERANCE = {torch.bfloat16: (8e-3, 4e-2), torch.float16: (1e-3, 5e-3), torch.float32: (1e-6, 1e-5)}
# Large tiles, because the interpreter's time grows with the number of programs.
FEW_PROGRAMS = Config(block_m=16, block_n=256, block_k=256)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


def _experts(experts: int, hidden: int, inner: int, **options) -> tuple[Int4, Int4]:
    w13 = draw_int4(experts, 2 * inner, hidden, **options)
    return w13, draw_int4(experts, hidden, inner, seed=1, **options)


def _routing(tokens: int, experts: int, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(tokens))
    weights, ids = scores.topk(top_k, dim=-1)
    return ids.to(torch.int32), weights / weights.sum(-1, keepdim=True)


def _x(tokens: int, hidden: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(3)).to(dtype)


def _exact(x, ids, weights, w13: Int4, w2: Int4, activation="gelu_tanh") -> torch.Tensor:
    """Compute in float64, one slot after another."""
    out = torch.zeros(len(x), w2.packed.shape[1], dtype=torch.float64)
    for token, slot in (ids >= 0).nonzero():
        expert = int(ids[token, slot])
        g, u = (w13.of(expert).exact @ x[token].double()).chunk(2)
        act = silu(g) if activation == "silu" else gelu(g, approximate="tanh")
        out[token] += weights[token, slot].double() * (w2.of(expert).exact @ (act * u))
    return out


def _given(x, ids, weights, w13: Int4, w2: Int4, device: str):
    tensors = (x, ids, weights, *w13, *w2)
    return (None if tensor is None else tensor.to(device) for tensor in tensors)


def _decode(x, ids, weights, w13, w2, device, activation="gelu_tanh", config=None) -> torch.Tensor:
    return int4_experts(*_given(x, ids, weights, w13, w2, device), activation, config=config).cpu()


def _grouped(x, ids, weights, w13, w2, device, activation="gelu_tanh", config=None):
    _, rows, half = w13.packed.shape
    config = config or choose("grouped", torch.device(device), len(x), rows, 2 * half)
    slots = sort_slots(ids.to(device), config.block_m, len(w13.packed))
    given = _given(x, ids, weights, w13, w2, device)
    return int4_experts(*given, activation, slots=slots, config=config).cpu()


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
    w13, w2 = _experts(8, 96, 64)
    x, (ids, weights) = _x(tokens, 96, dtype), _routing(tokens, 8, 3)
    got = path(x, ids, weights, w13, w2, device)
    want = _exact(x, ids, weights, w13, w2)
    _check(got, want, dtype)
    plain = error(int4_experts_ref(x, ids, weights, *w13, *w2, "gelu_tanh"), want)
    assert error(got, want).rms <= 2 * plain.rms


@paths
@pytest.mark.parametrize("group", [32, 64, None])
def test_symmetric_groups_and_channels(group, path, device) -> None:
    w13, w2 = _experts(4, 64, 64, group=group, zeros=False)
    x, (ids, weights) = _x(3, 64, torch.bfloat16), _routing(3, 4, 2)
    _check(path(x, ids, weights, w13, w2, device), _exact(x, ids, weights, w13, w2), x.dtype)


@paths
@pytest.mark.parametrize("tokens", [7, 17, pytest.param(64, marks=pytest.mark.slow)])
def test_more_tokens(tokens, path, device) -> None:
    w13, w2 = _experts(4, 32, 32)
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
    got = path(x, ids, weights, w13, w2, device)
    _check(got, _exact(x, ids, weights, w13, w2), x.dtype)
    assert not got[5].any()


@paths
def test_silu(path, device) -> None:
    w13, w2 = _experts(4, 64, 32)
    x, (ids, weights) = _x(3, 64, torch.float16), _routing(3, 4, 2)
    got = path(x, ids, weights, w13, w2, device, activation="silu")
    _check(got, _exact(x, ids, weights, w13, w2, "silu"), x.dtype)


@paths
@pytest.mark.parametrize("inner", [352, 704])
def test_an_expert_of_the_26b_and_its_half(inner, path, device) -> None:
    w13, w2 = _experts(2, 96, inner)
    x, (ids, weights) = _x(2, 96, torch.bfloat16), _routing(2, 2, 2)
    _check(path(x, ids, weights, w13, w2, device), _exact(x, ids, weights, w13, w2), x.dtype)


def test_zero_tokens_give_zero_rows(device) -> None:
    w13, w2 = _experts(4, 64, 32)
    x, (ids, weights) = _x(0, 64, torch.float16), _routing(0, 4, 2)
    assert _decode(x, ids, weights, w13, w2, device).shape == (0, 64)


def test_bad_input_is_refused() -> None:
    w13, w2 = _experts(4, 64, 32)
    x, (ids, weights) = _x(3, 64, torch.float16), _routing(3, 4, 2)
    with pytest.raises(ValueError, match="are not the same experts"):
        int4_experts(x, ids, weights, *w13, *draw_int4(4, 64, 64), "silu")
    with pytest.raises(ValueError, match="routing of shape"):
        int4_experts(x, ids[:2], weights[:2], *w13, *w2, "silu")
    with pytest.raises(ValueError, match="'relu' is not"):
        int4_experts(x, ids, weights, *w13, *w2, "relu")
    slots = sort_slots(ids, 16, 4)
    with pytest.raises(ValueError, match="need the config of their blocks"):
        int4_experts(x, ids, weights, *w13, *w2, "silu", slots=slots)
