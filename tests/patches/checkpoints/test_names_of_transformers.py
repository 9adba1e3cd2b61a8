# SPDX-License-Identifier: Apache-2.0
"""Load the names that transformers loads, and leave out the values that it leaves out.

tests/serving/test_parity.py serves such checkpoints; tests/unit/test_expected_tensors.py compares
the prefixes with what transformers loads.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sglang_gemma4_ext.patches.checkpoints import names_of_transformers
from tests.patches.hooks import hook_of

LAYER = "layers.1.self_attn.q_proj.weight"
VALUES = "layers.{}.self_attn.v_proj.weight"
CONDITIONAL, CAUSAL = "Gemma4ForConditionalGeneration", "Gemma4ForCausalLM"


def served(architecture: str, *names: str) -> list[str]:
    model = type(architecture, (SimpleNamespace,), {"_get_k_eq_v_layers": lambda self: {2, 5}})()
    rename = hook_of(names_of_transformers.PATCH, "before", "load_weights_only")
    changed = rename(model, [(name, None) for name in names], "cpu")
    if changed is None:
        return list(names)
    (_, weights, device), options = changed
    assert device == "cpu" and options == {}
    return [name for name, _ in weights]


@pytest.mark.parametrize(
    ("architecture", "name", "expected"),
    [
        (CAUSAL, LAYER, f"model.{LAYER}"),
        (CAUSAL, f"model.model.{LAYER}", f"model.{LAYER}"),
        (CAUSAL, f"model.{LAYER}", f"model.{LAYER}"),
        (CAUSAL, "norm.weight", "model.norm.weight"),
        (CAUSAL, "lm_head.weight", "lm_head.weight"),
        ("Gemma4AssistantForCausalLM", "embed_tokens.weight", "model.embed_tokens.weight"),
        ("Gemma4AssistantForCausalLM", "pre_projection.weight", "pre_projection.weight"),
        (CONDITIONAL, f"model.model.language_model.{LAYER}", f"model.language_model.{LAYER}"),
        (CONDITIONAL, f"language_model.{LAYER}", f"language_model.{LAYER}"),
        (CONDITIONAL, LAYER, LAYER),
        ("LlamaForCausalLM", LAYER, LAYER),
    ],
)
def test_names(architecture, name, expected) -> None:
    assert served(architecture, name) == [expected]


def test_values_of_layers_whose_values_are_their_keys_are_left_out() -> None:
    names = [f"model.language_model.{VALUES.format(layer)}" for layer in (1, 2, 3, 5)]
    assert served(CONDITIONAL, *names) == [names[0], names[2]]
    assert served(CAUSAL, VALUES.format(2), VALUES.format(4)) == [f"model.{VALUES.format(4)}"]
