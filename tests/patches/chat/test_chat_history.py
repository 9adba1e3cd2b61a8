# SPDX-License-Identifier: Apache-2.0
"""Compare histories rendered by SGLang's serving layer with transformers' rendering."""

from __future__ import annotations

import pytest

from sglang_gemma4_ext.patches.chat import chat_history, tool_declarations
from tests.chat.shapes import (
    OSLO,
    SHAPES,
    SUNNY,
    THOUGHT_ELSEWHERE,
    USER,
    WEATHER,
    calling,
    official,
)

TEMPLATES = ("2026-07-15_large", "2026-07-15_small", "earlier")

thinking = pytest.mark.parametrize("thinks", [False, True], ids=["answer", "thinking"])


def body(messages, tools=(), thinks=False):
    out = {"messages": messages, "chat_template_kwargs": {"enable_thinking": thinks}}
    return {**out, "tools": list(tools)} if tools else out


@pytest.fixture
def patched(apply, layer):
    apply(chat_history.PATCH, tool_declarations.PATCH)
    return layer


@thinking
@pytest.mark.parametrize("name", TEMPLATES)
def test_histories_are_rendered_as_by_the_template(patched, name, thinks):
    served = patched(name)
    made = served.engine.tokenizer
    for shape, (messages, tools) in SHAPES.items():
        expected = official(made, messages, tools, enable_thinking=thinks)
        assert served.prompt_of(body(messages, tools, thinks)) == expected, shape


@pytest.mark.parametrize("shape", THOUGHT_ELSEWHERE)
def test_thoughts_of_other_fields_reach_the_template(patched, shape):
    served = patched()
    plain = [USER, calling(OSLO, reasoning_content="R"), SUNNY]
    expected = official(served.engine.tokenizer, plain, [WEATHER])
    assert "thought\nR\n<channel|>" in expected
    assert served.prompt_of(body(THOUGHT_ELSEWHERE[shape], [WEATHER])) == expected


@thinking
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_models_turn_is_opened_after_text_call_and_result(patched, name, thinks):
    served = patched(name)
    messages = [USER, calling(OSLO, content="Looking."), SUNNY]
    forgotten = official(served.engine.tokenizer, messages, [WEATHER], enable_thinking=thinks)
    before, end, tail = forgotten.rpartition("Looking.<turn|>\n")
    assert "<|turn>model" not in tail
    opening = "<|turn>model\n" + tail
    if name != "2026-07-15_small" and not thinks:
        opening += "<|channel>thought\n<channel|>"
    assert served.prompt_of(body(messages, [WEATHER], thinks)) == before + end + opening


def test_invalid_arguments_are_still_refused(patched):
    broken = calling({**OSLO, "function": {"name": "weather", "arguments": '{"city":"Os'}})
    answer = patched().post(body([USER, broken, SUNNY], [WEATHER]))
    assert answer.status_code == 400
    assert "must be valid JSON" in answer.text


def test_thinking_blocks_of_the_anthropic_endpoint_stay_inside_a_tool_chain(patched):
    served = patched(reasoning_parser="gemma4")
    uses = {"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Oslo"}}
    thought = {"type": "thinking", "thinking": "R", "signature": "s"}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "sunny"}
    messages = [
        USER,
        {"role": "assistant", "content": [thought, uses]},
        {"role": "user", "content": [result]},
    ]
    plain = [USER, calling(OSLO, reasoning_content="R"), SUNNY]
    expected = official(served.engine.tokenizer, plain, [])
    assert served.prompt_of({"messages": messages}, "/v1/messages") == expected
