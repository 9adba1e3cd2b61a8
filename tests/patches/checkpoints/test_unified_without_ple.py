# SPDX-License-Identifier: Apache-2.0
"""Check that a unified config without per-layer embeddings gets none from a default."""

from __future__ import annotations

import pytest

from sglang_gemma4_ext.patches.checkpoints import unified_without_ple
from tests.patches.hooks import hook_of

without_ple = hook_of(unified_without_ple.PATCH, "after", "_apply_gemma4_attention_overrides")


@pytest.mark.parametrize(("model_type", "width"), [("gemma4_unified", 0), ("gemma4", 256)])
def test_sglangs_default_width_is_dropped(model_type, width):
    from sglang.srt.utils.hf_transformers import common

    config = common._CONFIG_REGISTRY["gemma4_unified"](text_config={})
    assert config.text_config.hidden_size_per_layer_input == 256
    config.model_type = model_type
    without_ple(None, config)
    assert config.text_config.hidden_size_per_layer_input == width
