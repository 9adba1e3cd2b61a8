# SPDX-License-Identifier: Apache-2.0
"""Check what the patch refuses in ModelOpt checkpoints, and what it leaves to SGLang."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_gemma4_ext.patches.weights import _layers, nvfp4_modelopt

WHERE = "model.language_model.layers.0.mlp.gate_up_proj"


@pytest.fixture
def all_ours(monkeypatch) -> None:
    monkeypatch.setattr(_layers, "takes", lambda layer: True)


def _config(**changes: Any) -> SimpleNamespace:
    given = {"is_checkpoint_nvfp4_serialized": True, "is_awq": False, "group_size": 16, **changes}
    return SimpleNamespace(**given)


def test_a_config_is_refused_in_one_sentence(all_ours) -> None:
    for changes, match in (
        ({"group_size": 32}, "group size 16"),
        ({"is_awq": True}, "plain NVFP4"),
    ):
        with pytest.raises(ValueError, match=match):
            nvfp4_modelopt._get_quant_method(None, _config(**changes), None, WHERE)
