# SPDX-License-Identifier: Apache-2.0
"""Check the ways of attending that bench.kv_distance compares, and its committed rows."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from bench import kv_distance
from bench.conditions import RESULTS, ROOT

E4M3 = torch.float8_e4m3fn
HEADS, KEYS, DIM = 4, 37, 64
MODULE = SimpleNamespace(num_key_value_groups=2, head_dim=DIM)


def tensors() -> tuple[torch.Tensor, ...]:
    """Draw queries [1, H, T, D] with scores of about 3, keys and values [1, H / 2, T, D]."""
    g = torch.Generator().manual_seed(0)
    q = torch.randn(1, HEADS, KEYS, DIM, generator=g) * 3 * DIM**-0.5
    return q, *(torch.randn(1, HEADS // 2, KEYS, DIM, generator=g) for _ in range(2))


def attend(way: str) -> torch.Tensor:
    """Attend causally; return [1, T, H, D]."""
    mask = torch.full((KEYS, KEYS), -torch.inf).triu(1)
    return kv_distance.attention(way)(MODULE, *tensors(), mask, scaling=1.0)[0]


@pytest.mark.parametrize(("way", "dtype"), [("bf16", torch.bfloat16), ("exact", E4M3)])
def test_the_cache_alone_is_rounded(way, dtype) -> None:
    q, *stored = tensors()
    k, v = (x.to(dtype).float() for x in stored)
    want = scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
    torch.testing.assert_close(attend(way), want.transpose(1, 2), atol=2e-6, rtol=2e-6)


def test_ours_is_nearer_to_exact_attention_over_the_same_bytes() -> None:
    exact = attend("exact")
    ours, sglang = ((attend(way) - exact).square().mean().sqrt() for way in ("ours", "sglang"))
    assert 0 < ours * 50 < sglang


def test_queries_of_bf16_are_exact_in_our_fp16() -> None:
    """They have eight bits of precision, and a power of two per row keeps their range."""
    q = (torch.randn(3, 5, DIM) * torch.tensor([1e-30, 1.0, 1e30])[:, None, None]).bfloat16()
    assert torch.equal(kv_distance.halved(q.float()), q.float())
    assert torch.equal(kv_distance.halved(torch.zeros(2, DIM)), torch.zeros(2, DIM))


def test_distances_are_those_of_the_next_tokens() -> None:
    want = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]).double().log()
    got = torch.tensor([[0.5, 0.5], [0.4, 0.6], [0.2, 0.8]]).double().log()
    found = kv_distance.distance([got], [want], [[0, 1, 0]])
    moved = torch.tensor([0.0, 0.4 / 0.9]).double()
    assert found["log_prob_worst"] == pytest.approx(-moved[1].log().item())
    kl = 0.9 * torch.tensor(0.9 / 0.4).log() + 0.1 * torch.tensor(0.1 / 0.6).log()
    assert found["kl"] == pytest.approx(kl.item() / 3, rel=1e-5)
    assert found["argmax_changed"] == pytest.approx(1 / 3)


MODELS = ("random dense", "random moe", "random e2b", "demo")


def committed(model: str) -> dict[str, dict]:
    """Return the rows of a model by way."""
    lines = (RESULTS / "kv_distance_cpu.jsonl").read_text().splitlines()
    return {row["way"]: row for row in map(json.loads, lines) if row["model"] == model}


@pytest.mark.parametrize("model", MODELS)
def test_the_committed_rows(model) -> None:
    """Over the same cache our KL is at least ten times smaller than SGLang's.

    From a BF16 cache both are dominated by the cache's own rounding, and ours adds nothing to it.
    """
    rows = committed(model)
    assert rows.keys() == set(kv_distance.WAYS)
    same = {way: row["from_same_cache"]["kl"] for way, row in rows.items()}
    wide = {way: row["from_bf16_cache"]["kl"] for way, row in rows.items()}
    assert same["exact"] == 0 and same["ours"] * 10 <= same["sglang"]
    assert wide["ours"] <= 1.02 * wide["exact"] < wide["sglang"]


def test_the_page_has_the_rows_figures() -> None:
    same, added = [], []
    for model in MODELS:
        rows = committed(model)
        ours, sglang = (rows[way]["from_same_cache"]["kl"] for way in ("ours", "sglang"))
        same.append(sglang / ours)
        exact, sglang = (rows[way]["from_bf16_cache"]["kl"] for way in ("exact", "sglang"))
        added.append(100 * (sglang / exact - 1))
    page = " ".join((ROOT / "docs" / "measured.md").read_text().split())
    assert f"{min(same):.0f} to {max(same):.0f} times the KL divergence" in page
    assert f"adds {min(added):.0f} to {max(added):.0f} % to it" in page
