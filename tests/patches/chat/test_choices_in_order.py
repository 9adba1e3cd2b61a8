# SPDX-License-Identifier: Apache-2.0
"""Open several choices of a stream in order, and feed the result to the OpenAI SDK."""

from __future__ import annotations

import asyncio
import itertools
import json
from types import SimpleNamespace

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from sglang_gemma4_ext.patches.chat.choices_in_order import PATCH, ordered
from tests.patches.hooks import hook_of

CHUNK = {"id": "x", "created": 0, "model": "m", "object": "chat.completion.chunk"}


def _event(index: int | None, text: str) -> str:
    choices = [] if index is None else [{"index": index, "delta": {"content": text}}]
    return f"data: {json.dumps({'choices': choices})}\n\n"


async def _stream(pieces):
    for piece in pieces:
        yield piece


def _run(pieces) -> list[str]:
    async def collect() -> list[str]:
        return [piece async for piece in ordered(_stream(pieces), 3)]

    return asyncio.run(collect())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_the_sdk_accumulates_every_order(order) -> None:
    pieces = [_event(index, f"{index}{round_}") for round_ in "abc" for index in order]
    pieces += [_event(None, "usage"), "data: [DONE]\n\n"]
    found = _run(pieces)
    assert sorted(found) == sorted(pieces)
    state = ChatCompletionStreamState()
    for piece in found[:-1]:
        content = json.loads(piece.removeprefix("data: "))
        state.handle_chunk(ChatCompletionChunk.model_validate(content | CHUNK))
    made = state.current_completion_snapshot.choices
    assert [choice.message.content for choice in made] == ["0a0b0c", "1a1b1c", "2a2b2c"]


def test_a_stream_that_ends_early_loses_nothing() -> None:
    pieces = [_event(2, "x"), _event(2, "y"), "data: {}\n\n", "data: not json\n\n", ": comment\n\n"]
    assert sorted(_run(pieces)) == sorted(pieces)


def test_what_waits_comes_before_the_end_of_the_stream() -> None:
    pieces = [_event(2, "x"), _event(1, "y"), "data: [DONE]\n\n"]
    assert _run(pieces) == [_event(1, "y"), _event(2, "x"), "data: [DONE]\n\n"]


def test_one_choice_is_passed_on_as_it_comes() -> None:
    hook = hook_of(PATCH, "around", "_generate_chat_stream")
    stream = object()
    for n in (None, 1):
        assert hook(lambda *_: stream, None, None, SimpleNamespace(n=n), None) is stream
    pieces = [_event(1, "b"), _event(0, "a")]
    several = hook(lambda *_: _stream(pieces), None, None, SimpleNamespace(n=2), None)

    async def collect() -> list[str]:
        return [piece async for piece in several]

    assert asyncio.run(collect()) == [_event(0, "a"), _event(1, "b")]
