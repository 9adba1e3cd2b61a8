# SPDX-License-Identifier: Apache-2.0
"""Compare extend attention with float64: prefill, verification of a tree, and sliding windows."""

from __future__ import annotations

import pytest
import torch

from sglang_gemma4_ext.kernels.extend_attention import extend_attention
from sglang_gemma4_ext.kernels.paged_attention_ref import extend_attention_ref
from tests.kernels import paged
from tests.kernels.oracle import error
from tests.kernels.paged import E4M3
from tests.kernels.poison import poison_allocations

BF16, FP32 = torch.bfloat16, torch.float32
# New tokens and cached keys of each request: none, within a tile, over several.
NEW, CACHED = (3, 0, 1, 40), (0, 4, 33, 70)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


class Batch:
    """Draw new tokens and a pool; `check` compares the kernel with float64."""

    def __init__(self, new, cached, heads, dtype, cache, new_dtype=None):
        dim, query_heads, key_heads = heads
        self.pool = paged.draw(cached, key_heads, dim, cache)
        self.q = paged.queries(sum(new), query_heads, dim, dtype)
        self.k, self.v = (
            (paged.queries(sum(new), key_heads, dim, FP32, seed) * 3).to(new_dtype or dtype)
            for seed in (1, 2)
        )
        self.indptr, self.max_new = torch.tensor([0, *new]).cumsum(0).int(), max(new)

    def run(self, device: str, **options) -> torch.Tensor:
        options = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in options.items()
        }
        new = (t.to(device) for t in (self.q, self.k, self.v))
        k_cache, v_cache, *indices = self.pool.to(device)
        given = (k_cache, v_cache, self.indptr.to(device), *indices, self.max_new)
        return extend_attention(*new, *given, scale=1.0, **options)

    def check(self, device: str, kernel_options=None, **options) -> torch.Tensor:
        got = self.run(device, **(options if kernel_options is None else kernel_options))
        pool = self.pool
        want = extend_attention_ref(
            self.q, self.k, self.v, pool.k_cache, pool.v_cache, self.indptr,
            pool.kv_indptr, pool.kv_indices, scale=1.0, **options,
        )  # fmt: skip
        assert got.dtype == self.q.dtype
        found = error(got, want)
        # New keys and values are BF16, and so are the softmax weights beside them.
        exact = self.k.dtype == E4M3 or self.q.dtype == FP32
        assert found.worst <= (paged.WORST[self.q.dtype] if exact else paged.BF16_CACHE_WORST)
        return got


SMALL, TWO, EIGHT = (32, 4, 2), (256, 4, 2), (512, 8, 1)
INTERPRETED = pytest.mark.interpreter
CASES = [
    pytest.param(SMALL, BF16, E4M3, None, id="32-bf16-e4m3"),
    pytest.param(TWO, BF16, E4M3, None, id="256-bf16-e4m3"),
    pytest.param(EIGHT, BF16, E4M3, None, id="512-bf16-e4m3"),
    pytest.param((256, 4, 1), BF16, E4M3, None, id="group-4", marks=pytest.mark.slow),
    pytest.param((64, 16, 1), BF16, E4M3, None, id="group-16", marks=pytest.mark.slow),
    pytest.param(SMALL, FP32, E4M3, None, id="32-fp32-e4m3", marks=INTERPRETED),
    pytest.param(TWO, FP32, E4M3, None, id="256-fp32-e4m3", marks=[INTERPRETED, pytest.mark.slow]),
    pytest.param(
        EIGHT, FP32, E4M3, None, id="512-fp32-e4m3", marks=[INTERPRETED, pytest.mark.slow]
    ),
    pytest.param(SMALL, FP32, FP32, None, id="32-fp32-fp32", marks=[INTERPRETED, pytest.mark.slow]),
    pytest.param(TWO, BF16, BF16, None, id="256-bf16-bf16", marks=pytest.mark.slow),
    pytest.param(SMALL, BF16, E4M3, E4M3, id="32-all-e4m3"),
    pytest.param(TWO, BF16, E4M3, E4M3, id="256-all-e4m3", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("heads", "dtype", "cache", "new_dtype"), CASES)
def test_equals_float64(heads, dtype, cache, new_dtype, device) -> None:
    Batch(NEW, CACHED, heads, dtype, cache, new_dtype).check(device)


@pytest.mark.parametrize(
    "distance", [15, 16, 17, *(pytest.param(d, marks=pytest.mark.slow) for d in (0, 1, 40))]
)
def test_windows_to_the_key(distance, device) -> None:
    """The window's edge lies among the cached keys, at their end, and among the new ones."""
    batch = Batch((20, 3), (16, 50), (32, 4, 2), BF16, E4M3)
    batch.check(device, distance=distance)


def test_a_window_leaves_out_whole_tiles(device) -> None:
    """Keys outside every window are not read: they are NaN here."""
    batch = Batch((4,), (200,), (32, 4, 2), BF16, E4M3)
    lost = batch.pool.kv_indices[:128]
    batch.pool.k_cache.view(torch.uint8)[lost] = 0x7F
    assert not batch.run(device, distance=20).isnan().any()


def trees(new: tuple[int, ...], cached: tuple[int, ...]) -> list[torch.Tensor]:
    """Draw a mask [new, cached + new] a request: every token sees itself and random others."""
    g = torch.Generator().manual_seed(3)
    masks = []
    for count, keys in zip(new, cached, strict=True):
        tree = (torch.rand(count, count, generator=g) < 0.5).tril() | torch.eye(count).bool()
        masks.append(torch.cat([torch.rand(count, keys, generator=g) < 0.6, tree], 1))
    return masks


@pytest.mark.parametrize(
    ("mask_cached", "offset", "distance"),
    [
        (False, None, None),
        (True, 6, 9),
        pytest.param(False, 6, 9, marks=pytest.mark.slow),
        pytest.param(False, None, 9, marks=pytest.mark.slow),
        pytest.param(True, None, None, marks=pytest.mark.slow),
    ],
)
def test_masks_of_draft_trees(mask_cached, offset, distance, device) -> None:
    """Mask the new keys alone or all keys; columns before the first cached key are ignored."""
    new, cached = (5, 7), (0, 40)
    masks = trees(new, cached)
    wide = [torch.cat([torch.ones(len(m), offset or 0).bool(), m], 1).flatten() for m in masks]
    starts = torch.tensor([0, *map(len, wide)]).cumsum(0)
    kernel = {"mask": torch.cat(wide), "mask_indptr": starts, "mask_cached": mask_cached}
    if offset is not None:
        kernel["mask_offsets"] = torch.full((2,), offset, dtype=torch.int32)
    Batch(new, cached, (64, 8, 2), BF16, E4M3).check(
        device, kernel | {"distance": distance}, masks=masks, mask_cached=mask_cached,
        distance=distance,
    )  # fmt: skip


@pytest.mark.parametrize("distance", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_without_causality(distance, device) -> None:
    Batch((20, 2), (5, 0), (32, 4, 2), BF16, E4M3).check(device, causal=False, distance=distance)


@pytest.mark.parametrize("new_dtype", [BF16, E4M3])
def test_scales_and_logit_cap(new_dtype, device) -> None:
    """New BF16 keys have no scale; bytes of another layer's keys have the cache's."""
    batch = Batch((9,), (40,), (64, 4, 2), BF16, E4M3, new_dtype)
    batch.check(device, k_scale=0.7, v_scale=3.0, logit_cap=1.5)


@pytest.mark.parametrize("new", [0, 1])
def test_every_byte_is_exact(new, device) -> None:
    """A mask leaves one key to each query, so its value is the output; NaN stays NaN."""
    batch = Batch((1,), (1,), (256, 2, 1), BF16, E4M3, E4M3)
    every = torch.arange(256, dtype=torch.uint8).view(E4M3)
    batch.pool.v_cache[batch.pool.kv_indices] = every
    batch.v[:] = every
    mask = torch.tensor([[new == 0, new == 1]])
    starts = torch.zeros(1, dtype=torch.int64)
    got = batch.run(device, mask=mask, mask_indptr=starts, mask_cached=True)
    # A NaN among the values that no query sees would show: its weight is zero.
    finite = ~every.float().isnan()
    assert torch.equal(got.cpu()[0, :, finite], every.to(BF16)[finite].expand(2, -1))
    assert got[0, 0].isnan().sum() == 2


def test_every_byte_of_a_key_is_exact(device) -> None:
    """Head h of token t has the score of byte 16 t + h; its weight shows in the output."""
    batch = Batch((16,), (32,), (32, 16, 1), BF16, E4M3)
    keys, slots = batch.pool.k_cache, batch.pool.kv_indices
    keys[slots] = torch.zeros(32).to(E4M3)
    keys[slots[::2], 0, :16] = torch.arange(256, dtype=torch.uint8).view(E4M3).view(16, 16)
    keys.view(torch.uint8)[slots[[14, 30]], 0, 15] = 0  # NaN, for which there is a test of values
    batch.q = torch.zeros(16, 16, 32, dtype=BF16)
    batch.q[:, torch.arange(16), torch.arange(16)] = 2.0**-7
    seen = torch.eye(16).repeat_interleave(2, 1).bool()
    mask = torch.cat([seen, torch.zeros(16, 16).bool()], 1)
    kernel = {"mask": mask.flatten(), "mask_indptr": torch.zeros(1, dtype=torch.int64)}
    batch.check(device, kernel | {"mask_cached": True}, masks=[mask], mask_cached=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"k": torch.zeros(2, 2, 64)}, "k is .*v is"),
        ({"k_cache": torch.zeros(9, 2, 64), "v_cache": torch.zeros(9, 2, 64)}, "float32"),
        ({"mask": torch.ones(1, dtype=torch.bool)}, "mask and mask_indptr belong together"),
        ({"kv_indptr": torch.zeros(1)}, "kv_indptr has 1 elements"),
    ],
)
def test_bad_input_is_refused(change, match) -> None:
    new = torch.zeros(3, 2, 64, dtype=BF16)
    cache = torch.zeros(9, 2, 64).to(E4M3)
    given = {
        "q": torch.zeros(3, 4, 64, dtype=BF16), "k": new, "v": new,
        "k_cache": cache, "v_cache": cache,
        "qo_indptr": torch.tensor([0, 3], dtype=torch.int32),
        "kv_indptr": torch.zeros(2, dtype=torch.int32),
        "kv_indices": torch.zeros(0, dtype=torch.int64), "max_new": 3, "scale": 1.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=match):
        extend_attention(**given | change)
