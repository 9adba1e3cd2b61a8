# SPDX-License-Identifier: Apache-2.0
"""Check required calls and JSON of a model with random weights, with and without an assistant."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import requests

from tests.checkpoints.assistant import build_assistant
from tests.serving.harness import Server, serve

pytestmark = [pytest.mark.server, pytest.mark.slow]

TEMPLATE = Path(__file__).resolve().parents[1] / "chat" / "templates" / "2026-07-15_small.jinja"
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["C", "F", None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["city", "days", "tags"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather-1.x", "parameters": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "weather-1.x"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


@pytest.fixture(scope="module", params=["plain", "assistant"])
def server(request, checkpoint, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    target = shutil.copytree(checkpoint("dense"), folder / "target")
    shutil.copy(TEMPLATE, target / "chat_template.jinja")
    flags = ["--model-path", str(target), "--dtype", "float32"]
    if request.param == "assistant":
        draft = build_assistant(target, folder / "draft")
        flags += ["--speculative-draft-model-path", str(draft)]
    with serve(*flags, log_dir=folder) as running:
        yield running


def choices(server: Server, thinks: bool = False, **more) -> list[dict]:
    body = {
        "model": "x",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 1,
        "max_tokens": 300,
        "n": 4,
        "chat_template_kwargs": {"enable_thinking": thinks},
        **more,
    }
    answer = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


@pytest.mark.parametrize("demand", ["required", NAMED], ids=["required", "named"])
def test_required_calls_follow_their_schema(server, demand):
    asked = {"tools": [TOOL], "tool_choice": demand, "parallel_tool_calls": False}
    for choice in choices(server, **asked):
        assert choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "weather-1.x"
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)


def test_calls_and_json_follow_their_schema_with_thinking_on(server):
    for choice in choices(server, True, tools=[TOOL], tool_choice="required", n=8):
        assert not choice["message"]["content"]
        for call in choice["message"].get("tool_calls") or ():
            jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    for choice in choices(server, True, response_format=FORMAT, n=8):
        if choice["finish_reason"] == "stop":
            jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)


def test_json_ends_without_a_flag(server):
    for choice in choices(server, response_format=FORMAT):
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
