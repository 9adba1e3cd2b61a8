# SPDX-License-Identifier: Apache-2.0
"""Check that pools of E2B and E4B have rows only for layers that own KV."""

from __future__ import annotations

import inspect

import pytest

from sglang_gemma4_ext.patches.memory import shared_layers_without_kv
from sglang_gemma4_ext.plan import pools
from sglang_gemma4_ext.plan.geometry import BUILT_IN, FULL, SLIDING
from sglang_gemma4_ext.plan.sizes import GIB
from tests.patches.hooks import hook_of
from tests.patches.upstream_pools import configurator

owners_only = hook_of(shared_layers_without_kv.PATCH, "after", "get_hybrid_layer_ids")


def layer_ids(name: str, architectures: list[str]) -> tuple[list[int], list[int]]:
    """Return (sliding, full) layer ids from SGLang's patched function."""
    from sglang.srt.configs import model_config
    from transformers import Gemma4TextConfig

    geometry = BUILT_IN[name]
    text = Gemma4TextConfig(
        num_hidden_layers=geometry.layers,
        layer_types=list(geometry.layer_types),
        num_kv_shared_layers=geometry.kv_shared,
    )
    found = inspect.unwrap(model_config.get_hybrid_layer_ids)(architectures, text)
    return owners_only(found, architectures, text)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_only_layers_that_own_kv_are_listed(name):
    geometry = BUILT_IN[name]
    sliding, full = layer_ids(name, ["Gemma4ForConditionalGeneration"])
    assert len(sliding) == geometry.kv_layers(SLIDING)
    assert len(full) == geometry.kv_layers(FULL)
    assert not any(geometry.shares_kv(layer) for layer in (*sliding, *full))


def test_each_shared_layer_reads_a_listed_one():
    """Apply SGLang's rule: a layer reads the last layer of its kind that owns KV."""
    geometry = BUILT_IN["E2B"]
    sliding, full = layer_ids("E2B", ["Gemma4ForConditionalGeneration"])
    owners = geometry.layers - geometry.kv_shared
    for layer in range(owners, geometry.layers):
        kind = geometry.layer_types[layer]
        source = max(i for i in range(owners) if geometry.layer_types[i] == kind)
        assert source in (full if kind == FULL else sliding)


def test_other_models_are_unchanged():
    ids = ([0, 1, 2], [3])
    assert owners_only(ids, ["LlamaForCausalLM"], object()) is ids


def test_the_pools_grow_by_the_unused_rows(monkeypatch, tmp_path):
    """Shrink a full token of E4B from 86,016 to 49,152 bytes: 1.75 times the tokens."""
    geometry = BUILT_IN["E4B"]
    stock = configurator(monkeypatch, tmp_path, geometry)
    before = stock.calculate_pool_sizes(4 * GIB, 1).full_max_total_num_tokens
    assert before == 4 * GIB // 86_016
    stock._swa_layers_num, stock._full_layers_num = map(
        len, layer_ids("E4B", ["Gemma4ForCausalLM"])
    )
    stock._recompute_cell_size()
    after = stock.calculate_pool_sizes(4 * GIB, 1).full_max_total_num_tokens
    assert after == 4 * GIB // 49_152 == pools.split(4 * GIB, pools.kv_bytes(geometry), 0.8).full
