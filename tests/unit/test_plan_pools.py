# SPDX-License-Identifier: Apache-2.0
"""Compare pools with SGLang's configurator to the token; they never admit fewer requests."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sglang_gemma4_ext.plan import pools
from sglang_gemma4_ext.plan.geometry import BUILT_IN, FULL, SLIDING
from sglang_gemma4_ext.plan.pools import WORKLOADS, Serving
from sglang_gemma4_ext.plan.sizes import GIB
from tests.patches.upstream_pools import configurator

# Measured on a 180 GB B200: model, budget in bytes, ratio, page, tokens of the two pools.
MEASURED = [
    ("26B-A4B", 109_478_041_600, 0.8, 1, 593_956, 475_164),
    ("26B-A4B", 109_478_041_600, 0.15, 1, 2_138_243, 320_736),
    ("26B-A4B", 109_478_041_600, 0.15, 64, 2_138_240, 320_704),
    ("31B", 98_052_341_760, 0.8, 64, 132_992, 106_368),
    ("31B", 98_052_341_760, 0.15, 64, 478_720, 71_808),
]
# Model -> bytes per token of all full layers and of all sliding layers, in BF16.
CELLS = {"12B": (16_384, 327_680), "26B-A4B": (20_480, 204_800), "31B": (81_920, 819_200)}

models = st.sampled_from(sorted(BUILT_IN))
budgets = st.integers(GIB // 4, 170 * GIB)
pages = st.sampled_from([1, 16, 64, 256])


@pytest.mark.parametrize(("model", "budget", "ratio", "page", "full", "swa"), MEASURED)
def test_the_measured_pools(monkeypatch, tmp_path, model, budget, ratio, page, full, swa):
    geometry = BUILT_IN[model]
    upstream = configurator(monkeypatch, tmp_path, geometry, ratio=ratio, page=page)
    theirs = upstream.calculate_pool_sizes(budget, page)
    assert (theirs.full_max_total_num_tokens, theirs.swa_max_total_num_tokens) == (full, swa)
    ours = pools.split(budget, pools.kv_bytes(geometry), ratio, page)
    assert (ours.full, ours.swa) == (full, swa)


@pytest.mark.parametrize("model", sorted(BUILT_IN))
def test_every_split_is_sglangs(monkeypatch, tmp_path, model):
    geometry = BUILT_IN[model]
    kv = pools.kv_bytes(geometry, shared_layers_too=True)
    for ratio in (0.005, 0.065, 0.15, 0.8, 1.0):
        for page in (1, 64):
            upstream = configurator(monkeypatch, tmp_path, geometry, ratio=ratio, page=page)
            for budget in (40 * GIB + 12_345, 123_456_789_012):
                theirs = upstream.calculate_pool_sizes(budget, page)
                ours = pools.split(budget, kv, ratio, page)
                assert ours.full == theirs.full_max_total_num_tokens
                assert ours.swa == theirs.swa_max_total_num_tokens


@pytest.mark.parametrize("model", sorted(CELLS))
def test_bytes_per_token(model):
    kv = pools.kv_bytes(BUILT_IN[model])
    assert (kv.full, kv.swa) == CELLS[model]


def test_layers_that_share_kv_have_no_pool():
    """Check E4B: 42 layers, 7 of them full; the last 18 share KV with earlier layers.

    SGLang 0.5.23 allocates all 7 and 35 layers of 2 heads x (256 or 512) x K and V x 2 bytes. Only
    4 and 20 of them are used.
    """
    e4b = BUILT_IN["E4B"]
    assert (e4b.kv_layers(FULL), e4b.kv_layers(SLIDING)) == (4, 20)
    owned, stock = pools.kv_bytes(e4b), pools.kv_bytes(e4b, shared_layers_too=True)
    assert (owned.full, owned.swa) == (4 * 2 * 2 * 512 * 2, 20 * 2 * 2 * 256 * 2)
    assert (stock.full, stock.swa) == (7 * 2 * 2 * 512 * 2, 35 * 2 * 2 * 256 * 2)


@given(models, budgets, st.floats(0.01, 1.0), pages)
def test_a_split_fits_its_budget_and_wastes_little(model, budget, ratio, page):
    kv = pools.kv_bytes(BUILT_IN[model])
    found = pools.split(budget, kv, ratio, page)
    used = found.full * kv.full + found.swa * kv.swa
    assert used <= budget
    assert budget - used <= (page + 1) * (kv.full + 2 * kv.swa)


@given(models, budgets, budgets, st.sampled_from(WORKLOADS))
def test_more_memory_never_serves_fewer(model, one, other, load):
    geometry, serving = BUILT_IN[model], Serving()
    kv = pools.kv_bytes(geometry)
    less, more = (pools.share(b, kv) for b in sorted((one, other)))
    count = [pools.concurrent(p, kv, geometry.window, *load, serving) for p in (less, more)]
    assert count[0] <= count[1]
    long = [
        pools.longest(p, kv, geometry.window, geometry.max_context, 1024, serving)
        for p in (less, more)
    ]
    assert long[0] <= long[1]


@pytest.mark.parametrize("gigabytes", [24, 48, 80, 96, 141, 180])
@pytest.mark.parametrize("model", sorted(BUILT_IN))
def test_auto_never_admits_fewer_than_seed_or_upstream(model, gigabytes):
    """Vary KV's share of the card, the length, the page size and speculation."""
    geometry = BUILT_IN[model]
    kv = pools.kv_bytes(geometry)
    for percent in range(2, 100, 7):
        budget = gigabytes * 10**9 * percent // 100
        for serving in (Serving(), Serving(64, 8192), Serving(page=64, prefix_tails=8)):
            shared = pools.share(budget, kv, serving.page)
            for ratio in (pools.UPSTREAM_RATIO, pools.seed_ratio(geometry)):
                fixed = pools.split(budget, kv, ratio, serving.page)
                for load in WORKLOADS:
                    ours = pools.concurrent(shared, kv, geometry.window, *load, serving)
                    theirs = pools.concurrent(fixed, kv, geometry.window, *load, serving)
                    assert ours >= theirs, (budget, serving, load)


def test_no_fixed_ratio_is_best_at_every_length():
    """Check 26B-A4B on 80 GB: every ratio serves fewer requests at one of four lengths."""
    geometry, serving, budget = BUILT_IN["26B-A4B"], Serving(), 55 * GIB
    kv = pools.kv_bytes(geometry)

    def counts(ratio: float) -> list[int]:
        found = pools.split(budget, kv, ratio)
        return [pools.concurrent(found, kv, geometry.window, *load, serving) for load in WORKLOADS]

    best = [max(pair) for pair in zip(counts(0.15), counts(0.8), strict=True)]
    assert not any(
        all(count >= wanted for count, wanted in zip(counts(step / 1000), best, strict=True))
        for step in range(1, 1001)
    )


@settings(max_examples=40)
@given(models, budgets, st.sampled_from([1, 4]))
@example("E4B", 3_140_718_797, 1)  # its longest load fits shared bytes, and no split
def test_a_solved_split_has_the_best_worst_case(model, budget, draft_tokens):
    """Check splits where bytes cannot be shared between the two pools.

    Seed and upstream serve no more loads than the solved split. Where they serve as many, the
    solved split's worst case is at least as good as theirs.
    """
    geometry, serving = BUILT_IN[model], Serving(draft_tokens=draft_tokens)
    kv, context = pools.kv_bytes(geometry), geometry.max_context
    shared = pools.share(budget, kv)

    def merit(ratio: float) -> tuple[int, float]:
        found, served = pools.split(budget, kv, ratio), []
        for load in pools.loads(context):
            count, ideal = (
                pools.concurrent(p, kv, geometry.window, *load, serving) for p in (found, shared)
            )
            served += [count / ideal] if count else []
        return len(served), min(served, default=0)

    solved = merit(pools.solve_ratio(budget, kv, geometry.window, context, serving))
    assert solved >= merit(pools.UPSTREAM_RATIO)
    assert solved >= merit(pools.SEED_MOE_RATIO)


def test_a_request_limit_moves_bytes_to_the_full_pool():
    geometry, serving, budget = BUILT_IN["31B"], Serving(), 40 * GIB
    kv = pools.kv_bytes(geometry)
    free = pools.solve_ratio(budget, kv, geometry.window, geometry.max_context, serving)
    few = pools.solve_ratio(
        budget, kv, geometry.window, geometry.max_context, serving, max_requests=4
    )
    one = pools.split(budget, kv, few)
    assert few < free
    assert pools.concurrent(one, kv, geometry.window, 1024, 1024, serving) >= 4
    assert one.full > pools.split(budget, kv, free).full


def test_where_nothing_fits_the_split_is_upstreams():
    geometry = BUILT_IN["31B"]
    kv = pools.kv_bytes(geometry)
    assert pools.solve_ratio(1000, kv, 1024, 4096, Serving()) == pools.UPSTREAM_RATIO
