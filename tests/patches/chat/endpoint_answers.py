# SPDX-License-Identifier: Apache-2.0
"""Hold what clients of every endpoint must get, on any server that has the patches.

A module that imports these tests has a fixture `speaker`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.chat.outputs import render_call
from tests.chat.tokens import encode, spell
from tests.patches.chat.client import TOOLS

THOUGHT = "<|channel>thought\nHm.\n<channel|>"
QUOTE = '<|"|>'
CALL = [*encode('<|tool_call>call:search{q:<|"|>'), *spell(QUOTE), *encode('<|"|>}<tool_call|>')]
ARGUMENTS = {"q": QUOTE}
TURN = [*encode(f"{THOUGHT}Look."), *CALL, *encode(render_call("search", {"q": "b"}))]
CALLED = [("search", ARGUMENTS), ("search", {"q": "b"})]
AGAIN = {"type": "function_call_output", "output": "found"}
SEARCH_TOOL = next(t["function"] for t in TOOLS if t["function"]["name"] == "search")
RESPONSE_TOOLS = [{"type": "function", **SEARCH_TOOL}]
ANTHROPIC_TOOLS = [{"name": "search", "input_schema": SEARCH_TOOL["parameters"]}]
THINKS = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}


@dataclass
class Speaker:
    """prompt: text for a message, after which the model writes these tokens.

    post: sends JSON to a path and returns the text of the answer. counts_thoughts: whether the
    server has a scheduler, which counts the tokens of thoughts.
    """

    client: openai.OpenAI
    model: str
    prompt: Callable[[list[int]], str]
    post: Callable[[str, dict[str, Any]], str]
    counts_thoughts: bool


def response(speaker: Speaker, given: Any, stream: bool, **fields: Any) -> Any:
    asked = {
        "model": speaker.model,
        "input": given,
        "tools": RESPONSE_TOOLS,
        "reasoning": {"effort": "low"},
        "max_output_tokens": 900,
        **fields,
    }
    if not stream:
        return speaker.client.responses.create(**asked)
    with speaker.client.responses.stream(**asked) as events:
        for _ in events:
            pass
        return events.get_final_response()


@pytest.mark.parametrize("stream", [False, True], ids=["create", "stream"])
def test_responses_give_thought_text_and_calls_and_take_results(speaker: Speaker, stream: bool):
    asked = {"role": "user", "content": speaker.prompt(TURN)}
    first = response(speaker, [asked], stream)
    assert [item.type for item in first.output] == [
        "reasoning", "message", "function_call", "function_call",
    ]  # fmt: skip
    thought, text, *calls = first.output
    assert thought.content[0].text == "Hm." and text.content[0].text == "Look."
    assert [(call.name, json.loads(call.arguments)) for call in calls] == CALLED
    if speaker.counts_thoughts:
        found = first.usage.output_tokens_details.reasoning_tokens
        assert found == len(encode(THOUGHT))
    history = [asked, *(item.model_dump(exclude_none=True) for item in first.output)]
    results = [{"call_id": call.call_id, **AGAIN} for call in calls]
    # With thinking on the prompt opens a thought behind the results.
    results[-1]["output"] = speaker.prompt(encode("I see.\n<channel|>Found."))
    second = response(speaker, history + results, stream)
    assert [item.type for item in second.output] == ["reasoning", "message"]
    assert second.output_text == "Found."


@pytest.mark.parametrize("stream", [False, True], ids=["create", "stream"])
def test_each_choice_of_several_has_calls_and_log_probabilities(speaker: Speaker, stream: bool):
    """The log-probabilities are those of all tokens, markup included."""
    asked = {
        "model": speaker.model,
        "messages": [{"role": "user", "content": speaker.prompt(TURN)}],
        "tools": TOOLS,
        "n": 3,
        "logprobs": True,
        "max_tokens": 900,
        **THINKS,
    }
    completions = speaker.client.chat.completions
    if stream:
        with completions.stream(**asked, stream_options={"include_usage": True}) as events:
            for _ in events:
                pass
            answer = events.get_final_completion()
    else:
        answer = completions.create(**asked)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        made = [
            (c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls
        ]
        assert made == CALLED and choice.finish_reason == "tool_calls"
        assert (choice.message.content, choice.message.reasoning_content) == ("Look.", "Hm.")
        written = [token.token for token in choice.logprobs.content]
        assert "".join(written[: len(TURN)]) == "".join(map(_text, TURN))
    if speaker.counts_thoughts:
        assert answer.usage.reasoning_tokens == 3 * len(encode(THOUGHT))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_anthropic_gives_thought_text_and_calls_and_takes_results(speaker: Speaker, stream: bool):
    asked = {"role": "user", "content": speaker.prompt(TURN)}
    blocks, stop, written = message(speaker, [asked], stream)
    # Anthropic's usage has no count of thoughts: they are output like the rest. The end is a token.
    assert written == len(TURN) + 1
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert (blocks[0]["thinking"], blocks[1]["text"]) == ("Hm.", "Look.")
    assert [(block["name"], block["input"]) for block in blocks[2:]] == CALLED
    assert stop == "tool_use"
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "found"}
        for block in blocks[2:]
    ]
    results[-1]["content"] = speaker.prompt(encode("I see.\n<channel|>Found."))
    history = [
        asked,
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": results},
    ]
    again, stop, _ = message(speaker, history, stream)
    assert [block["type"] for block in again] == ["thinking", "text"]
    assert again[1]["text"] == "Found." and stop == "end_turn"


def message(speaker: Speaker, messages: list[Any], stream: bool) -> tuple[list[Any], str, int]:
    """Blocks, stop reason and output tokens of an answer, joined from its events if streamed."""
    body = {
        "model": speaker.model,
        "messages": messages,
        "tools": ANTHROPIC_TOOLS,
        "max_tokens": 1100,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "stream": stream,
    }
    text = speaker.post("/v1/messages", body)
    if not stream:
        answer = json.loads(text)
        return answer["content"], answer["stop_reason"], answer["usage"]["output_tokens"]
    blocks: list[Any] = []
    stop, written = "", 0
    for event in _events(text):
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"], "parts": ""})
        elif event["type"] == "content_block_delta":
            _join(blocks[event["index"]], event["delta"])
        elif event["type"] == "message_delta":
            stop, written = event["delta"]["stop_reason"], event["usage"]["output_tokens"]
    for block in blocks:
        parts = block.pop("parts")
        if block["type"] == "tool_use":
            block["input"] = json.loads(parts)
    return blocks, stop, written


def _join(block: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "partial_json":
            block["parts"] += value
        elif name != "type":
            block[name] = block.get(name, "") + value


def _events(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _text(token: int) -> str:
    from bench.checkpoints.tokenizer import tokenizer

    return tokenizer().decode([token])
