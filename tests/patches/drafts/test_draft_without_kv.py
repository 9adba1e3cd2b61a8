# SPDX-License-Identifier: Apache-2.0
"""Check which draft layers SGLang's pools count; test_swa_policy.py has real pools."""

from __future__ import annotations

import pytest
from sglang.srt.model_executor.model_runner_components.spec_aux_hidden_state import (
    SpecAuxHiddenStateConfig,
)
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from sglang_gemma4_ext.patches.drafts import draft_without_kv
from tests.patches.hooks import hook_of


@pytest.mark.parametrize(("algorithm", "layers"), [("FROZEN_KV_MTP", 0), ("EAGLE", 4)])
def test_a_frozen_kv_draft_counts_no_layers(algorithm, layers):
    config = SpecAuxHiddenStateConfig(eagle_draft_num_layers=4)
    hook = hook_of(draft_without_kv.PATCH, "after", "_resolve_eagle_aux_hidden_state")
    hook(None, config=config, spec_algorithm=SpeculativeAlgorithm.from_string(algorithm))
    assert config.eagle_draft_num_layers == layers
