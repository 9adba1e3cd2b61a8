# SPDX-License-Identifier: Apache-2.0
"""Hold conversations in the shapes that agents send, and render them by the official template."""

from __future__ import annotations

import copy
import json
from typing import Any

import transformers

USER = {"role": "user", "content": "hi"}
SUNNY = {"role": "tool", "tool_call_id": "1", "content": "sunny"}
PARTS = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "c"}},
            "required": ["city"],
        },
    },
}
UNIONS = {
    "type": "object",
    "properties": {
        "a": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "d"},
        "b": {"type": ["integer", "null"]},
        "c": {"$ref": "#/$defs/X"},
        "d": {"enum": [1, 2]},
        "e": {"type": "integer", "enum": [1, 2]},
    },
    "$defs": {"X": {"type": "object", "properties": {"q": {"type": "string"}}}},
}


def function(**parts: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **parts}}


def call(ident: str, arguments: str, name: str = "weather") -> dict[str, Any]:
    made = {"name": name, "arguments": arguments}
    return {"id": ident, "type": "function", "function": made}


def calling(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


OSLO = call("1", '{"city":"Oslo"}')
VALUES = call("1", '{"city":null,"f":1.5,"b":true,"l":[1,{"a":"x"}]}')
A, B = call("1", '{"city":"A"}'), call("2", '{"city":"B"}')
RESULTS = [
    {"role": "tool", "tool_call_id": "2", "content": "b"},
    {"role": "tool", "tool_call_id": "1", "content": "a"},
]

SHAPES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "plain": ([USER], [WEATHER]),
    "system": ([{"role": "system", "content": "S"}, USER], [WEATHER]),
    "developer": ([{"role": "developer", "content": "S"}, USER], [WEATHER]),
    "system_parts": ([{"role": "system", "content": PARTS}, USER], []),
    "user_parts": ([{"role": "user", "content": PARTS}], []),
    "late_developer": (
        [USER, {"role": "assistant", "content": "x"}, {"role": "developer", "content": "D"}, USER],
        [],
    ),
    "result": ([USER, calling(OSLO), SUNNY], [WEATHER]),
    "reasoning_content": ([USER, calling(OSLO, reasoning_content="R"), SUNNY], [WEATHER]),
    "reasoning": ([USER, calling(OSLO, reasoning="R"), SUNNY], [WEATHER]),
    "result_parts": (
        [USER, calling(OSLO), {"role": "tool", "tool_call_id": "1", "content": PARTS}],
        [WEATHER],
    ),
    "result_json": (
        [USER, calling(OSLO), {**SUNNY, "content": '{"t":1,"s":"x"}'}],
        [WEATHER],
    ),
    "swapped_results": ([USER, calling(A, B), *RESULTS], [WEATHER]),
    "values": ([USER, calling(VALUES), SUNNY], [WEATHER]),
    "empty_arguments": ([USER, calling(call("1", "")), SUNNY], [WEATHER]),
    "no_description": ([USER], [function(parameters={"type": "object", "properties": {}})]),
    "no_parameters": ([USER], [function(description="W")]),
    "extra_keys": (
        [USER],
        [
            function(
                description="W",
                strict=True,
                parameters={
                    "type": "object",
                    "properties": {"a": {"type": "string"}},
                    "additionalProperties": False,
                },
            )
        ],
    ),
    "text_and_call": (
        [
            USER,
            calling(OSLO, content="Looking"),
            SUNNY,
            {"role": "assistant", "content": "Done"},
            USER,
        ],
        [WEATHER],
    ),
    "name_only": (
        [USER, calling(OSLO), {"role": "tool", "tool_call_id": "z", "name": "w", "content": "s"}],
        [WEATHER],
    ),
}
# SGLang would lose these, and the template omits some. They are rendered differently on purpose.
THOUGHT_ELSEWHERE = {
    "reasoning_details": [
        USER,
        calling(OSLO, reasoning_details=[{"type": "reasoning.text", "text": "R"}]),
        SUNNY,
    ],
    "thinking_part": [
        USER,
        calling(OSLO, content=[{"type": "thinking", "thinking": "R"}]),
        SUNNY,
    ],
}


def official(
    tokenizer: transformers.PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]],
    **kwargs: Any,
) -> str:
    """Render with transformers alone; arguments of calls are parsed as the template expects."""
    messages = copy.deepcopy(messages)
    for message in messages:
        for made in message.get("tool_calls") or ():
            made["function"]["arguments"] = json.loads(made["function"]["arguments"] or "{}")
        if message.get("content") is None:
            message.pop("content", None)
    return tokenizer.apply_chat_template(
        messages, tools=tools or None, tokenize=False, add_generation_prompt=True, **kwargs
    )
