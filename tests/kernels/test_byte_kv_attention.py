# SPDX-License-Identifier: Apache-2.0
"""Call SGLang's attention functions through the patch, over an E4M3 cache, as its backend does."""

from __future__ import annotations

import functools

import pytest
import torch

from sglang_gemma4_ext.kernels.paged_attention_ref import decode_attention_ref, extend_attention_ref
from sglang_gemma4_ext.patches.model import byte_kv_attention as patch
from tests.kernels import paged
from tests.kernels.oracle import Error, error
from tests.kernels.paged import E4M3

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.fixture(autouse=True)
def _bf16(mended_bf16) -> None:
    pass


def refused(*_args, **_kwargs) -> None:
    pytest.fail("SGLang's own function was called")


def decode(original, q: torch.Tensor, pool: paged.Paged, device: str, **options) -> torch.Tensor:
    """Call as TritonAttnBackend.forward_decode does, with its scratch for four splits."""
    out = torch.full_like(q, torch.nan).to(device)
    count, heads, dim = q.shape
    parts = torch.empty(count + 2, heads, 4, dim, device=device)
    sums = torch.empty(count + 2, heads, 4, device=device)
    splits = torch.full((count,), 2, dtype=torch.int32, device=device)
    k_cache, v_cache, *indices = pool.to(device)
    patch._decode(
        original, q.to(device), k_cache, v_cache, out, *indices, parts, sums, splits, 4, 1.0,
        *(options.pop("scales", (1.0, 1.0))), logit_cap=0, sinks=None, xai_temperature_len=-1,
        has_mla=False, use_pdl=False, page_size=1, score_mod=None, aux_tensors=None,
        enable_lean=False, lean_Mp=None, lean_Lp=None, lean_Op=None, lean_locks=None,
        uneven_batch=None, **options,
    )  # fmt: skip
    return out.cpu()


def exact(q: torch.Tensor, pool: paged.Paged, **options) -> torch.Tensor:
    return decode_attention_ref(
        q, pool.k_cache, pool.v_cache, pool.kv_indptr, pool.kv_indices, scale=1.0, **options
    )


def test_decode_is_ours_and_exact(device) -> None:
    pool = paged.draw((40, 3), 2, 64, E4M3)
    q = paged.queries(2, 8, 64, BF16)
    got = decode(refused, q, pool, device, scales=(0.5, 2.0))
    assert error(got, exact(q, pool, k_scale=0.5, v_scale=2.0)).worst <= paged.WORST[BF16]


@pytest.mark.parametrize("window", [-1, 5])
def test_extend_is_ours_and_exact(window, device) -> None:
    """Call as TritonAttnBackend.forward_extend does for a prefill."""
    pool = paged.draw((20, 0), 2, 64, E4M3)
    q, k, v = (paged.queries(12, heads, 64, BF16, heads) for heads in (8, 2, 2))
    starts = torch.tensor([0, 7, 12], dtype=torch.int32)
    out = torch.full_like(q, torch.nan).to(device)
    k_cache, v_cache, *indices = pool.to(device)
    patch._extend(
        refused, *(t.to(device) for t in (q, k, v)), out, k_cache, v_cache, starts.to(device),
        *indices, None, True, None, 7, 0.5, 2.0, 1.0, logit_cap=0, sliding_window_size=window,
        sinks=None, window_kv_offsets=None, xai_temperature_len=-1, page_size=1, score_mod=None,
        aux_tensors=None, extend_seq_lens_cpu=[7, 5],
    )  # fmt: skip
    want = extend_attention_ref(
        q, k, v, pool.k_cache, pool.v_cache, starts, pool.kv_indptr, pool.kv_indices, scale=1.0,
        k_scale=0.5, v_scale=2.0, distance=window if window > 0 else None,
    )  # fmt: skip
    assert error(out.cpu(), want).worst <= paged.BF16_CACHE_WORST


@pytest.mark.parametrize("change", [{"sinks": 1}, {"score_mod": 1}, {"xai_temperature_len": 8}])
def test_what_gemma_does_not_have_stays_sglangs(change) -> None:
    q, pool = paged.queries(1, 4, 64, BF16), paged.draw((4,), 2, 64, E4M3)
    assert not patch._is_ours(q, pool.k_cache, change)
    assert patch._is_ours(q, pool.k_cache, {})


def test_other_caches_stay_sglangs(monkeypatch) -> None:
    q, pool = paged.queries(1, 4, 64, BF16), paged.draw((4,), 2, 64, BF16)
    assert not patch._is_ours(q, pool.k_cache, {})
    monkeypatch.setattr(patch, "_serves_every_dtype", lambda: True)
    assert patch._is_ours(q, pool.k_cache, {})
    assert not patch._is_ours(paged.queries(1, 4, 48, BF16), torch.zeros(4, 2, 48).to(BF16), {})


@pytest.mark.interpreter
def test_ours_is_nearer_than_sglangs_way(device) -> None:
    """SGLang rounds queries and softmax weights to E4M3: over ten times our error.

    Both are compared with float64 over the same cache, so that the cache's own rounding is left
    out. It is the same for both.
    """
    from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd

    pool = paged.draw((60, 33), 2, 64, E4M3)
    q = paged.queries(2, 8, 64, BF16)
    sglang = functools.partial(decode_attention_fwd)
    errors: list[Error] = []
    for is_ours in (True, False):
        options = {} if is_ours else {"skip_prefix": True}  # an option that is not ours
        if is_ours:
            errors.append(error(decode(refused, q, pool, device), exact(q, pool)))
        else:
            original = lambda *args, skip_prefix, **kwargs: sglang(*args, **kwargs)  # noqa: E731
            errors.append(error(decode(original, q, pool, device, **options), exact(q, pool)))
    ours, theirs = errors
    assert ours.rms * 10 <= theirs.rms, (ours, theirs)
