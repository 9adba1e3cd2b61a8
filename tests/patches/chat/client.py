# SPDX-License-Identifier: Apache-2.0
"""Ask a server with the openai client while the test sets the model's output."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai

from tests.chat.outputs import render_call
from tests.chat.tokens import encode

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

# As text, in which a control token's name is that token, or as tokens.
Output = str | list[int]


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
        self.client, self.model, self._prepare = client, model, prepare

    def say(self, output: Output, *, stream: bool, **fields: Any) -> Reply:
        """Return the whole answer; the client's own accumulator joins a streamed one."""
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

    def deltas(self, output: Output, **fields: Any) -> list[Any]:
        """Return the parts of a streamed answer as they come."""
        request = self._request(output, **fields)
        chunks = self.client.chat.completions.create(**request, stream=True)
        return [chunk.choices[0].delta for chunk in chunks if chunk.choices]

    def tokens(self, output: Output, **fields: Any) -> int:
        """Return how many tokens the engine generated."""
        answer = self.client.chat.completions.create(**self._request(output, **fields))
        return answer.usage.completion_tokens

    def prepare(self, output: Output) -> dict[str, Any]:
        """Arrange that the next request gets this output; fields of the request that say so."""
        return self._prepare(encode(output) if isinstance(output, str) else output)

    def _request(
        self,
        output: Output,
        *,
        tools: list[Any] | None = TOOLS,
        messages: list[Any] = QUESTION,
        max_tokens: int = 900,
        **fields: Any,
    ) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "extra_body": {**self.prepare(output), **fields},
            **({"tools": tools} if tools else {}),
        }
