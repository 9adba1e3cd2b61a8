# SPDX-License-Identifier: Apache-2.0
"""Use the openai client on SGLang's chat serving in this process, with a scripted engine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from sglang_gemma4_ext.patches.chat import reasoning, tool_calls
from sglang_gemma4_ext.registry import Patch
from tests.patches.chat.client import Scripted
from tests.patches.chat.serving_layer import Layer, applier, layers

PATCHES = {"tool_calls": tool_calls.PATCH, "reasoning": reasoning.PATCH}


def on_layer(layer: Any) -> Scripted:
    made: Layer = layer("2026-07-15_large", tool_call_parser="gemma4", reasoning_parser="gemma4")

    def prepare(ids: list[int]) -> dict[str, Any]:
        made.engine.force = ids
        return {}

    def forward(request: httpx.Request) -> httpx.Response:
        answer = made.client.post(request.url.path, json=json.loads(request.content))
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    client = openai.OpenAI(
        base_url="http://testserver/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx.Client(transport=httpx.MockTransport(forward)),
    )
    return Scripted(client, "m", prepare)


@contextlib.contextmanager
def serving(*patches: Patch) -> Iterator[Scripted]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        applier(monkeypatch)(*patches)
        yield on_layer(layers(monkeypatch))
