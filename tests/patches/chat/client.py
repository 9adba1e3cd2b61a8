# SPDX-License-Identifier: Apache-2.0
"""Ask a server with the openai client while the test sets the model's output."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai

from bench.checkpoints.tokenizer import tokenizer
from tests.chat.outputs import render_call

TOOLS = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}
    for name, parameters in {
        "get_weather": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
        "search": {"type": "object", "properties": {"q": {"type": "string"}}},
    }.items()
]
QUESTION = [{"role": "user", "content": "Hi"}]
THOUGHT = "<|channel>thought\nHm.\n<channel|>"
SEARCH = render_call("search", {"q": "x"})
SEARCHED = ("search", {"q": "x"})
THINKING = {"chat_template_kwargs": {"enable_thinking": True}}


@dataclass(frozen=True)
class Reply:
    """Hold what the client's own classes make of an answer."""

    finish: str
    text: str
    thought: str
    calls: list[tuple[str, Any]]
    message: Any


class Scripted:
    """Make the model write a test's output, and request it.

    prepare: sets the tokens of the next request and returns the request fields that carry them.
    """

    def __init__(
        self, client: openai.OpenAI, model: str, prepare: Callable[[list[int]], dict[str, Any]]
    ):
        self.client, self._model, self._prepare = client, model, prepare
        self._tokenizer = tokenizer()

    def say(self, output: str, *, stream: bool, **fields: Any) -> Reply:
        """Return the whole answer; a streamed one is joined by the client's own accumulator."""
        request = self._request(output, **fields)
        completions = self.client.chat.completions
        if stream:
            with completions.stream(**request) as events:
                for _ in events:
                    pass
                choice = events.get_final_completion().choices[0]
        else:
            choice = completions.create(**request).choices[0]
        message = choice.message
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or []]
        return Reply(
            finish=choice.finish_reason,
            text=message.content or "",
            thought=getattr(message, "reasoning_content", None) or "",
            calls=[(name, json.loads(arguments)) for name, arguments in calls],
            message=message,
        )

    def deltas(self, output: str, **fields: Any) -> list[Any]:
        """Return the parts of a streamed answer in order."""
        request = self._request(output, **fields)
        chunks = self.client.chat.completions.create(**request, stream=True)
        return [chunk.choices[0].delta for chunk in chunks if chunk.choices]

    def tokens(self, output: str, **fields: Any) -> int:
        """Count the tokens that the engine generated."""
        answer = self.client.chat.completions.create(**self._request(output, **fields))
        return answer.usage.completion_tokens

    def _request(
        self,
        output: str,
        *,
        tools: list[Any] | None = TOOLS,
        messages: list[Any] = QUESTION,
        max_tokens: int = 900,
        **fields: Any,
    ) -> dict[str, Any]:
        ids = self._tokenizer.encode(output, add_special_tokens=False)
        return {
            "model": self._model,
            "messages": messages,
            "max_tokens": max_tokens,
            "extra_body": {**self._prepare(ids), **fields},
            **({"tools": tools} if tools else {}),
        }
