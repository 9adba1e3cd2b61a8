# SPDX-License-Identifier: Apache-2.0
"""Hold a conversation with an OpenAI-compatible server, apart from any page.

An answer is shown in parts, in the order in which they come: thoughts, text, calls. A call stays
open until its result is given; what the user types then is the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["question", "text", "thought", "call", "result", "note"]


@dataclass
class Part:
    """Hold a piece of the conversation for display. name: the tool of a call or a result."""

    kind: Kind
    text: str
    name: str = ""
    is_open: bool = False


@dataclass
class Options:
    """tools: as a request to /v1/chat/completions has them."""

    tools: list[dict[str, Any]] = field(default_factory=list)
    thinks: bool = False
    most_tokens: int = 1024


class Conversation:
    """history: what the server gets. parts: what the user sees."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.parts: list[Part] = []

    @property
    def open_call(self) -> dict[str, Any] | None:
        """Return the first call that has no result yet."""
        results = {m["tool_call_id"] for m in self.history if m["role"] == "tool"}
        calls = (call for m in self.history for call in m.get("tool_calls", ()))
        return next((call for call in calls if call["id"] not in results), None)

    def say(self, text: str) -> None:
        """Take what the user typed: the result of the open call, or a message."""
        call = self.open_call
        if call is None:
            self.history.append({"role": "user", "content": text})
            self.parts.append(Part("question", text))
        else:
            self.history.append({"role": "tool", "tool_call_id": call["id"], "content": text})
            self.parts.append(Part("result", text, call["function"]["name"]))

    def answer(self, client: Any, model: str, options: Options) -> Iterator[None]:
        """Ask the server; yields whenever `parts` has more. client: an openai.OpenAI.

        A refusal, a lost connection and an answer that was cut become notes.
        """
        from openai import APIError

        message: dict[str, Any] = {"role": "assistant", "content": ""}
        try:
            for choice in _choices(client, model, self.history, options):
                self._take(message, choice.delta)
                if choice.finish_reason == "length":
                    note = f"The answer was cut after {options.most_tokens} tokens."
                    self._show("note", note)
                yield
        except APIError as error:
            self._show("note", _sentence(error))
        self._close()
        if message["content"] or "tool_calls" in message:
            self.history.append(message)
        yield

    def _take(self, message: dict[str, Any], delta: Any) -> None:
        if thought := getattr(delta, "reasoning_content", None):
            message["reasoning_content"] = message.get("reasoning_content", "") + thought
            self._show("thought", thought)
        if delta.content:
            message["content"] += delta.content
            self._show("text", delta.content)
        for part in delta.tool_calls or ():
            calls = message.setdefault("tool_calls", [])
            if part.index == len(calls):
                function = {"name": part.function.name, "arguments": ""}
                calls.append({"id": part.id, "type": "function", "function": function})
                self._close()
                self.parts.append(Part("call", "", part.function.name, is_open=True))
            calls[part.index]["function"]["arguments"] += part.function.arguments or ""
            self.parts[-1].text += part.function.arguments or ""

    def _show(self, kind: Kind, text: str) -> None:
        if not self.parts or self.parts[-1].kind != kind or not self.parts[-1].is_open:
            self._close()
            self.parts.append(Part(kind, "", is_open=True))
        self.parts[-1].text += text

    def _close(self) -> None:
        if self.parts:
            self.parts[-1].is_open = False


def _choices(client: Any, model: str, history: list[Any], options: Options) -> Iterator[Any]:
    tools = {"tools": options.tools} if options.tools else {}
    chunks = client.chat.completions.create(
        model=model,
        messages=history,
        max_tokens=options.most_tokens,
        stream=True,
        extra_body={"chat_template_kwargs": {"enable_thinking": options.thinks}},
        **tools,
    )
    for chunk in chunks:
        yield from chunk.choices


def read_tools(text: str) -> list[dict[str, Any]]:
    """Parse tools as a request has them, or bare functions. Raises ValueError with the reason."""
    if not text.strip():
        return []
    try:
        tools = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the tools are not JSON: {error}") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError('the tools must be a JSON list, such as [{"name": "f", "parameters": {}}]')
    return [
        tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
    ]


def _sentence(error: Any) -> str:
    """Say what the server answered, or that it did not."""
    body = error.body if isinstance(error.body, dict) else {}
    said = body.get("message") or getattr(error, "message", "") or str(error)
    return f"The server refused: {said}" if body else f"The server did not answer: {said}"
