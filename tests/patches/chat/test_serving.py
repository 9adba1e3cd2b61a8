# SPDX-License-Identifier: Apache-2.0
"""Use the openai client on SGLang's patched chat serving; only the engine is replaced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chat.test_turn import alarm
from tests.patches.chat.answers import *  # noqa: F403 (the tests that every server passes)
from tests.patches.chat.answers import PARSING
from tests.patches.chat.client import SEARCH, THOUGHT, TOOLS, Scripted
from tests.patches.chat.serving_layer import serving

HOSTILE = '<|tool_call>call:search{v:[[<|"|>note 1] x<|"|>]]}<tool_call|>'


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    with serving(*PARSING.values()) as running:
        yield running


def test_the_endpoint_for_calls_parses_a_hostile_text_quickly(apply, endpoints):
    from sglang.srt.entrypoints.openai.protocol import Tool

    apply(*PARSING.values())
    tools = [Tool(**tool) for tool in TOOLS]
    with alarm(1):
        answer = endpoints(
            "parse_function_call_request", tool_call_parser="gemma4", tools=tools, text=HOSTILE
        )
    assert answer["normal_text"] == ""
    assert answer["calls"][0]["parameters"] == '{"v": [["note 1] x"]]}'


def test_the_endpoint_for_thoughts_leaves_calls_as_they_are(apply, endpoints):
    apply(*PARSING.values())
    with alarm(1):
        answer = endpoints(
            "separate_reasoning_request",
            reasoning_parser="gemma4",
            text=THOUGHT + SEARCH,
            return_blocks=True,
        )
    assert (answer["reasoning_text"], answer["text"]) == ("Hm.", SEARCH)


@pytest.fixture
def endpoints(monkeypatch):
    """endpoints(route, **fields): call a route of SGLang's HTTP server."""
    from sglang.srt.entrypoints import http_server

    chat = SimpleNamespace(chat_encoding_spec=None, encoding_adapter=None)
    request = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(openai_serving_chat=chat)))
    manager = SimpleNamespace(tokenizer=None)
    monkeypatch.setattr(http_server, "_global_state", SimpleNamespace(tokenizer_manager=manager))

    def call(route: str, **body: Any) -> dict[str, Any]:
        kind = {
            "parse_function_call_request": http_server.ParseFunctionCallReq,
            "separate_reasoning_request": http_server.SeparateReasoningReqInput,
        }[route]
        response = asyncio.run(getattr(http_server, route)(kind(**body), request))
        return json.loads(response.body)

    return call
