# SPDX-License-Identifier: Apache-2.0
"""Check that FP8 KV-cache scales of a unified checkpoint get the names that SGLang loads."""

from __future__ import annotations

from types import SimpleNamespace

from sglang_gemma4_ext.patches.checkpoints import unified_kv_scales
from tests.patches.hooks import hook_of


def test_unified_kv_scales_are_renamed_or_left_out() -> None:
    layer = "language_model.layers.0.self_attn"
    weights = [(f"model.{layer}.{leaf}", 0) for leaf in ("k_proj.k_scale", "v_proj.v_scale", "q")]
    model = SimpleNamespace(named_parameters=lambda: [(f"{layer}.attn.k_scale", None)])
    remap = hook_of(unified_kv_scales.PATCH, "before", "load_weights")
    (_, remapped), _ = remap(model, weights)
    found = [name for name, _ in remapped]
    assert found == [f"model.{layer}.attn.k_scale", f"model.{layer}.q"]
