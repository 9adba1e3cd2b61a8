# SPDX-License-Identifier: Apache-2.0
"""Check every endpoint over SGLang's serving layer in this process, all chat patches on."""

from __future__ import annotations

import pytest

from sglang_gemma4_ext.patches.series import PATCHES
from tests.patches.chat.endpoint_answers import *  # noqa: F403 (the tests that every server passes)
from tests.patches.chat.endpoint_answers import Speaker
from tests.patches.chat.serving_layer import Layer

SERVING = [p for p in PATCHES if p.theme == "chat" and p.name != "parsers_by_default"]


@pytest.fixture
def speaker(apply, layer) -> Speaker:
    apply(*SERVING)
    made: Layer = layer("2026-07-15_large", tool_call_parser="gemma4", reasoning_parser="gemma4")

    def prompt(ids: list[int]) -> str:
        made.engine.force = ids
        return "Hi"

    def post(path: str, body: dict) -> str:
        answer = made.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.text

    return Speaker(made.openai_client(), "m", prompt, post, counts_thoughts=False)
