# SPDX-License-Identifier: Apache-2.0
"""Check that no context exceeds the model's own, in SGLang's own method."""

from __future__ import annotations

import inspect

import pytest

from bench.checkpoints.shapes import write_config
from sglang_gemma4_ext.patches.memory import context_ceiling
from sglang_gemma4_ext.plan.geometry import BUILT_IN
from tests.patches.hooks import hook_of

cut = hook_of(context_ceiling.PATCH, "before", "_derive_context_length")


@pytest.mark.parametrize(
    ("requested", "served"), [(None, 262_144), (1000, 1000), (999_999_999, 262_144)]
)
@pytest.mark.parametrize("env", [{}, {"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1"}])
def test_no_context_above_the_models_own(monkeypatch, tmp_path, env, requested, served):
    """Call SGLang's method, which by itself would refuse or grant the longer context."""
    from sglang.srt.configs.model_config import ModelConfig

    for name, value in env.items():
        monkeypatch.setenv(name, value)
    config = ModelConfig(str(write_config(BUILT_IN["12B"], tmp_path)), enable_multimodal=False)
    changed = cut(config, requested)
    (_, length), _ = changed or ((config, requested), {})
    inspect.unwrap(ModelConfig._derive_context_length)(config, length)
    assert config.context_len == served
