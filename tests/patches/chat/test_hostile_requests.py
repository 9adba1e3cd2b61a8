# SPDX-License-Identifier: Apache-2.0
"""Requests that no honest client sends: each is answered, soon, and a refusal is one sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sglang_gemma4_ext.patches.series import PATCHES
from tests.chat import hostile
from tests.chat.outputs import malformed
from tests.chat.test_turn import alarm
from tests.patches.chat.serving_layer import Layer, applier, layers

pytestmark = pytest.mark.slow

SERVING = [p for p in PATCHES if p.theme == "chat" and p.name != "parsers_by_default"]
SECONDS = 60
choices = st.sampled_from(
    ["auto", "none", "required", {"type": "function", "function": {"name": "f"}}]
)
odd = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def served() -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        applier(monkeypatch)(*SERVING)
        made = layers(monkeypatch)
        yield made("2026-07-15_large", tool_call_parser="gemma4", reasoning_parser="gemma4")


def tool(name: str, schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


def post(layer: Layer, tools: list[Any], choice: Any = "required", **more: Any) -> Any:
    """Return the status; fail on a traceback, a refusal of several lines, or a long wait."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools, "tool_choice": choice}
    content = json.dumps({"model": "m", "max_tokens": 40, **body, **more}, ensure_ascii=True)
    with alarm(SECONDS):
        answer = layer.client.post(
            "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
        )
    if answer.status_code == 422:  # FastAPI's own list of what is wrong with the body
        return 422
    assert answer.status_code in (200, 400), answer.text[:2000]
    if answer.status_code == 400:
        # SGLang's sentence on a schema that is none; the details of jsonschema follow it.
        message = answer.json()["message"].partition("\n\nFailed validating")[0]
        assert message and "\n" not in message and "Traceback" not in message, message
    return answer.status_code


@pytest.mark.parametrize("name", hostile.HOSTILE)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_hostile_schema_is_answered(served, name, choice):
    served.say("Hi.")
    assert post(served, [tool("f", hostile.HOSTILE[name])], choice) in (200, 400)


@given(hostile.words, hostile.schemas, choices, st.booleans())
@odd
def test_an_odd_tool_is_answered(served, name, schema, choice, strict):
    served.say("Hi.")
    post(served, [tool(name, schema, strict=strict)], choice)


def test_a_thousand_tools_are_answered(served):
    served.say("Hi.")
    tools = [tool(f"f{i}", hostile.object_of({"type": "string"})) for i in range(1000)]
    # The engine of this test takes prompts of any length.
    assert post(served, tools, "required") == 200


@pytest.mark.parametrize("name", ["", " ", "a b", "é", "<|tool_call>", 'a"b', "x" * 10_000, "a\nb"])
def test_a_tool_of_an_odd_name_is_answered(served, name):
    served.say("Hi.")
    post(served, [tool(name, {"type": "object", "properties": {}})])


@given(st.integers(0, 2**32))
@odd
def test_a_malformed_output_is_answered_on_the_whole_way(served, seed):
    (text,) = malformed(1, seed)
    served.say(text)
    for stream in (False, True):
        post(served, [tool("search", hostile.object_of({}))], "auto", stream=stream)
