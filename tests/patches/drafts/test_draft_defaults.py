# SPDX-License-Identifier: Apache-2.0
"""Check the speculative flags that follow from a Gemma 4 assistant alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_gemma4_ext.patches.drafts import draft_defaults
from sglang_gemma4_ext.patches.drafts.draft_defaults import draft_shape
from tests.patches.hooks import hook_of

algorithm = hook_of(draft_defaults.PATCH, "around", "_resolve_speculative_algorithm_alias")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, None, None), (3, 1, 4)),
        ((5, None, None), (5, 1, 6)),
        ((None, None, 3), (2, 1, 3)),
        ((3, 1, 8), (3, 1, 4)),
        ((None, 3, None), (3, 3, 8)),
        ((1, 2, None), (1, 2, 3)),
        ((3, 3, 6), (3, 3, 6)),
    ],
)
def test_flags_that_the_user_left_out_are_set(given, expected):
    assert draft_shape(*given) == expected


@pytest.mark.parametrize(
    ("architecture", "named", "resolved"),
    [
        ("Gemma4AssistantForCausalLM", None, "NEXTN"),
        ("Gemma4AssistantForCausalLM", "EAGLE", "EAGLE"),
        ("LlamaForCausalLM", None, None),
    ],
)
def test_the_architecture_of_the_assistant_names_the_algorithm(
    architecture, named, resolved, tmp_path: Path
):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))

    def stock(name: str | None, path: str, *args: Any) -> str | None:
        return name

    assert algorithm(stock, named, str(tmp_path)) == resolved
    assert algorithm(stock, named, None) == named
