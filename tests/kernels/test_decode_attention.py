# SPDX-License-Identifier: Apache-2.0
"""Compare decode attention with float64 over the decoded cache, at Gemma 4's head sizes."""

from __future__ import annotations

import pytest
import torch

from sglang_gemma4_ext.kernels.decode_attention import decode_attention
from sglang_gemma4_ext.kernels.paged_attention_ref import decode_attention_ref
from tests.kernels import paged
from tests.kernels.oracle import error
from tests.kernels.paged import E4M3
from tests.kernels.poison import poison_allocations

BF16, FP32 = torch.bfloat16, torch.float32
LENGTHS = (0, 1, 33, 70)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


def splits(count: int, tokens: int, device: str) -> torch.Tensor:
    return torch.full((tokens,), count, dtype=torch.int32, device=device)


def check(q: torch.Tensor, pool: paged.Paged, count: int, device: str, **options) -> torch.Tensor:
    given = (splits(count, len(q), device), max(count, 4))
    got = decode_attention(q.to(device), *pool.to(device), *given, scale=1.0, **options)
    want = decode_attention_ref(
        q, pool.k_cache, pool.v_cache, pool.kv_indptr, pool.kv_indices, scale=1.0, **options
    )
    assert got.dtype == q.dtype
    found = error(got, want)
    assert found.worst <= paged.worst(q.dtype, pool.k_cache.dtype), found
    return got


# head_dim, query heads, key heads: a tiny model's, and groups of 2, 4, 8 and 16.
SMALL, TWO, EIGHT = (32, 4, 2), (256, 4, 2), (512, 8, 1)
# Compiled, 4-byte tiles exceed shared memory at head_dim 512.
INTERPRETED = pytest.mark.interpreter
CASES = [
    pytest.param(SMALL, BF16, E4M3, 3, id="32-bf16-e4m3"),
    pytest.param(TWO, BF16, E4M3, 2, id="256-bf16-e4m3"),
    pytest.param(EIGHT, BF16, E4M3, 1, id="512-bf16-e4m3"),
    pytest.param((256, 4, 1), BF16, E4M3, 3, id="group-4", marks=pytest.mark.slow),
    pytest.param((256, 16, 1), BF16, E4M3, 3, id="group-16", marks=pytest.mark.slow),
    pytest.param(SMALL, FP32, E4M3, 2, id="32-fp32-e4m3", marks=INTERPRETED),
    pytest.param(TWO, FP32, E4M3, 2, id="256-fp32-e4m3", marks=[INTERPRETED, pytest.mark.slow]),
    pytest.param(EIGHT, FP32, E4M3, 2, id="512-fp32-e4m3", marks=[INTERPRETED, pytest.mark.slow]),
    pytest.param(SMALL, FP32, FP32, 3, id="32-fp32-fp32", marks=INTERPRETED),
    pytest.param(SMALL, BF16, BF16, 1, id="32-bf16-bf16"),
    pytest.param(TWO, BF16, BF16, 1, id="256-bf16-bf16", marks=pytest.mark.slow),
    pytest.param(EIGHT, BF16, BF16, 1, id="512-bf16-bf16", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("heads", "dtype", "cache", "count"), CASES)
def test_equals_float64(heads, dtype, cache, count, device) -> None:
    """Batch requests of no key, of one, and of over one and two blocks; other slots are NaN."""
    dim, query_heads, key_heads = heads
    pool = paged.draw(LENGTHS, key_heads, dim, cache)
    got = check(paged.queries(len(LENGTHS), query_heads, dim, dtype), pool, count, device)
    assert not got[0].any()


def test_scales_and_logit_cap(device) -> None:
    pool = paged.draw((40, 5), 2, 64, E4M3)
    q = paged.queries(2, 8, 64, BF16)
    check(q, pool, 2, device, k_scale=0.7, v_scale=3.0, logit_cap=1.5)


@pytest.mark.parametrize("size", [2.0**-60, 1e-3, 300.0, 2.0**70])
def test_queries_of_any_size(size, device) -> None:
    """Each row of queries is scaled into FP16's range, so none overflows or vanishes."""
    pool = paged.draw((50,), 1, 64, E4M3)
    q = (paged.queries(1, 4, 64, BF16).float() * size).to(BF16)
    check(q, pool, 1, device, k_scale=1 / size)


def every_byte() -> torch.Tensor:
    """Return E4M3 [256], byte by byte."""
    return torch.arange(256, dtype=torch.uint8).view(E4M3)


@pytest.mark.parametrize("dtype", [BF16, pytest.param(FP32, marks=pytest.mark.interpreter)])
def test_every_byte_of_a_value_is_exact(dtype, device) -> None:
    """One key has the whole weight, so the output is the value; NaN stays NaN."""
    pool = paged.draw((1,), 1, 256, E4M3)
    pool.v_cache[pool.kv_indices] = every_byte()
    q = paged.queries(1, 2, 256, dtype).to(device)
    got = decode_attention(q, *pool.to(device), splits(1, 1, device), 1, scale=1.0)
    want = every_byte().to(dtype).expand(1, 2, 256)
    torch.testing.assert_close(got.cpu(), want, rtol=0, atol=0, equal_nan=True)


def test_the_number_of_splits_changes_only_the_order_of_sums(device) -> None:
    """The same splits give the same bits, whatever more programs there are."""
    pool = paged.draw((100,), 1, 64, E4M3)
    q = paged.queries(1, 4, 64, BF16).to(device)
    first, second = (
        decode_attention(q, *pool.to(device), splits(2, 1, device), most, scale=1.0)
        for most in (2, 8)
    )
    assert torch.equal(first, second)


def test_interleaved_pools_and_given_outputs(device) -> None:
    """Keys and values may be parts of one buffer; indices may be 32 bits wide."""
    pool = paged.draw((20, 40), 2, 64, E4M3)
    whole = torch.stack([pool.k_cache.view(torch.int8), pool.v_cache.view(torch.int8)], 1)
    k, v = whole.to(device).view(E4M3).unbind(1)
    q = paged.queries(2, 4, 64, BF16)
    wide = torch.full((2, 4, 128), torch.nan, dtype=BF16, device=device)
    scratch = torch.empty(5, 4, 3, 64, device=device), torch.empty(5, 4, 3, device=device)
    slots = pool.kv_indices.int().to(device)
    got = decode_attention(
        q.to(device),
        k,
        v,
        pool.kv_indptr.to(device),
        slots,
        splits(3, 2, device),
        3,
        scale=1.0,
        out=wide[:, :, :64],
        scratch=scratch,
    )
    assert got.data_ptr() == wide.data_ptr() and wide[:, :, 64:].isnan().all()
    want = decode_attention_ref(
        q, pool.k_cache, pool.v_cache, pool.kv_indptr, pool.kv_indices, scale=1.0
    )
    assert error(got, want).worst <= paged.WORST[BF16]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"q": torch.zeros(2, 4, 48)}, "k_cache must be"),
        ({"q": torch.zeros(2, 5, 64)}, "5 query heads do not share 2 key heads"),
        ({"q": torch.zeros(2, 4, 64, dtype=torch.float64)}, "float64"),
        ({"v_cache": torch.zeros(7, 2, 64)}, "k_cache is"),
        ({"kv_indptr": torch.zeros(2)}, "kv_indptr has 2 elements, T is 2"),
        ({"num_splits": torch.ones(1)}, "num_splits has 1 elements"),
        ({"scratch": (torch.empty(2, 4, 3, 64), torch.empty(2, 4, 3))}, "scratch must be"),
    ],
)
def test_bad_input_is_refused(change, match) -> None:
    given = {
        "q": torch.zeros(2, 4, 64),
        "k_cache": torch.zeros(9, 2, 64).to(E4M3),
        "v_cache": torch.zeros(9, 2, 64).to(E4M3),
        "kv_indptr": torch.zeros(3, dtype=torch.int32),
        "kv_indices": torch.zeros(0, dtype=torch.int64),
        "num_splits": torch.ones(2, dtype=torch.int32),
        "max_splits": 1,
        "scale": 1.0,
    }
    with pytest.raises(ValueError, match=match):
        decode_attention(**given | change)
