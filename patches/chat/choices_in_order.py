# SPDX-License-Identifier: Apache-2.0
"""Open the choices of a chat stream in their order: 0, then 1, then 2.

With `n` above 1 SGLang streams whichever choice has a token first. The OpenAI SDK's `stream()`
appends choices as they appear, so it raises IndexError where choice 0 is not the first one. A piece
waits until the choices before its own are open.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch

STREAM = "sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat._generate_chat_stream"
_DATA = "data: "
_DONE = f"{_DATA}[DONE]"


def _in_order(
    original: Callable[..., AsyncIterator[str]], self: Any, adapted: Any, request: Any, raw: Any
) -> AsyncIterator[str]:
    """AROUND _generate_chat_stream: server-sent events of a chat."""
    pieces = original(self, adapted, request, raw)
    choices = request.n or 1
    return ordered(pieces, choices) if choices > 1 else pieces


async def ordered(pieces: AsyncIterator[str], choices: int) -> AsyncIterator[str]:
    """Yield server-sent events; hold one of choice k until all choices before k are open."""
    opened = 0
    held: dict[int, list[str]] = {}
    async for piece in pieces:
        index = _choice(piece) if opened < choices else None
        if index is not None and index > opened:
            held.setdefault(index, []).append(piece)
            continue
        if piece.startswith(_DONE):  # a choice before them has no tokens
            for waiting in _taken(held):
                yield waiting
        yield piece
        if index == opened:
            opened += 1
            while opened in held:
                for waiting in held.pop(opened):
                    yield waiting
                opened += 1
    for waiting in _taken(held):
        yield waiting


def _taken(held: dict[int, list[str]]) -> list[str]:
    """Return all held events by choice, and forget them."""
    events = [event for index in sorted(held) for event in held[index]]
    held.clear()
    return events


def _choice(piece: str) -> int | None:
    """Return the index of the choice that an event belongs to; None if it belongs to none."""
    if not piece.startswith(_DATA):
        return None
    try:
        choices = json.loads(piece.removeprefix(_DATA)).get("choices")
    except (ValueError, AttributeError):  # [DONE], or an error in another shape
        return None
    return choices[0].get("index") if choices else None


def _retired() -> bool:
    from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat

    source = inspect.getsource(inspect.unwrap(OpenAIServingChat._generate_chat_stream))
    return "for index in range(request.n" in source


PATCH = Patch(
    name="choices_in_order",
    theme="chat",
    summary="A stream of several choices opens them in order, as the OpenAI SDK needs",
    why="_generate_chat_stream writes each choice when its tokens come; no flag orders them",
    upstream="unreported",
    retire_when="the first pieces of all choices are written in order",
    retired=_retired,
    hooks=(Hook(STREAM, "26de62556f6b", "around", _in_order),),
)
