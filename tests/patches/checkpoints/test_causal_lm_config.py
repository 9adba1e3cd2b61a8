# SPDX-License-Identifier: Apache-2.0
"""Check that a text-only config of transformers 5.19 becomes the shapes that SGLang reads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import transformers

from sglang_gemma4_ext.patches.checkpoints import causal_lm_config
from tests.patches.hooks import hook_of

flatten = hook_of(causal_lm_config.PATCH, "after", "get_hf_text_config")


def _saved_and_read(tmp_path) -> transformers.PretrainedConfig:
    config = transformers.Gemma4TextConfig(
        num_hidden_layers=6,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_global_key_value_heads=1,
        head_dim=32,
        global_head_dim=64,
        attention_k_eq_v=True,
    )
    config.save_pretrained(tmp_path)
    return transformers.AutoConfig.from_pretrained(tmp_path)


def test_both_attention_shapes_are_flattened(tmp_path):
    config = _saved_and_read(tmp_path)
    with pytest.raises(Exception, match="num_key_value_heads"):
        _ = config.num_key_value_heads
    flatten(config, config)
    assert (config.head_dim, config.num_key_value_heads) == (64, 1)
    assert (config.swa_head_dim, config.swa_num_key_value_heads) == (32, 2)


def test_other_configurations_are_unchanged():
    nested = SimpleNamespace(model_type="gemma4_text")
    other = SimpleNamespace(model_type="llama")
    flatten(nested, SimpleNamespace(text_config=nested))
    flatten(other, other)
    assert vars(nested) == {"model_type": "gemma4_text"}
    assert vars(other) == {"model_type": "llama"}
