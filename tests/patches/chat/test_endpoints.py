# SPDX-License-Identifier: Apache-2.0
"""Test several choices and the Anthropic endpoint with all chat patches applied."""

from __future__ import annotations

import json

import pytest

from sglang_gemma4_ext.patches.series import PATCHES
from tests.chat.shapes import USER, WEATHER
from tests.chat.test_grammar import call

SERVING = [p for p in PATCHES if p.theme == "chat" and p.name != "parsers_by_default"]
TWO = call("weather", 'city:"A"') + call("weather", 'city:"B"')
CITIES = [{"city": "A"}, {"city": "B"}]


@pytest.fixture
def served(apply, layer):
    apply(*SERVING)
    return layer(reasoning_parser="gemma4", tool_call_parser="gemma4")


def test_each_of_several_choices_has_its_own_calls(served):
    served.say(TWO)
    asked = {"messages": [USER], "tools": [WEATHER], "n": 3, "max_tokens": 500}
    choices = served.post(asked).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    for choice in choices:
        made = [json.loads(c["function"]["arguments"]) for c in choice["message"]["tool_calls"]]
        assert made == CITIES


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_anthropic_endpoint_has_thought_text_and_calls(served, stream):
    function = WEATHER["function"]
    tool = {"name": "weather", "input_schema": function["parameters"]}
    served.say("<|channel>thought\nHm.<channel|>Looking." + TWO)
    answer = served.post(
        {
            "messages": [USER],
            "tools": [tool],
            "max_tokens": 2000,
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "stream": stream,
        },
        "/v1/messages",
    )
    assert answer.status_code == 200
    if not stream:
        blocks = answer.json()["content"]
        assert [b["type"] for b in blocks] == ["thinking", "text", "tool_use", "tool_use"]
        assert [b["input"] for b in blocks[2:]] == CITIES
        assert answer.json()["stop_reason"] == "tool_use"
        return
    events = [
        json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")
    ]
    starts = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use", "tool_use"]
    written: dict[int, str] = {}
    for event in events:
        part = event.get("delta", {}).get("partial_json")
        if part:
            written[event["index"]] = written.get(event["index"], "") + part
    assert [json.loads(text) for text in written.values()] == CITIES
