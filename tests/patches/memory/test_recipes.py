# SPDX-License-Identifier: Apache-2.0
"""Check that SGLang's own pool configurator makes the pools of every recipe in docs/cards.md."""

from __future__ import annotations

import pytest

from sglang_gemma4_ext.plan import compare, pools
from sglang_gemma4_ext.plan.geometry import BUILT_IN, FULL, SLIDING
from tests.patches.upstream_pools import configurator


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(BUILT_IN))
def test_every_recipe_has_sglangs_pools(monkeypatch, tmp_path, model):
    """A split to the token. SGLang labels a shared buffer by a split of 0.8, here within one."""
    geometry, made = BUILT_IN[model], {}
    for row in compare.rows(model):
        plan, tp = row.plan, row.machine.count
        if not row.context:
            continue
        ratio = pools.UPSTREAM_RATIO if plan.ratio is None else plan.ratio
        if (ratio, tp) not in made:
            theirs = configurator(monkeypatch, tmp_path, geometry, ratio=ratio)
            # As patches/memory/shared_layers_without_kv.py leaves them; heads divided among ranks.
            theirs._full_layers_num = geometry.kv_layers(FULL)
            theirs._swa_layers_num = geometry.kv_layers(SLIDING)
            theirs._full_per_token //= min(tp, geometry.global_kv_heads)
            theirs._swa_per_token //= min(tp, geometry.kv_heads)
            theirs._recompute_cell_size()
            made[ratio, tp] = theirs
        theirs, budget = made[ratio, tp], plan.parts["kv"]
        assert (theirs._full_cell_bytes(), theirs._swa_cell_bytes()) == (plan.kv.full, plan.kv.swa)
        sizes = theirs.calculate_pool_sizes(budget, 1)
        if plan.pools.shared_bytes is None:
            assert sizes.full_max_total_num_tokens == plan.pools.full
            assert sizes.swa_max_total_num_tokens == plan.pools.swa
        else:
            label = pools.split(budget, plan.kv, ratio).full
            assert abs(sizes.full_max_total_num_tokens - label) <= 1
            assert plan.pools == pools.share(budget, plan.kv)
