# SPDX-License-Identifier: Apache-2.0
"""Ask the demo held-out questions with tools declared, and count right calls and answers.

A call is right if the model writes exactly it and ends its turn. An answer is right word by word.
`direct` counts questions that need no declared tool and are answered without a call.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sglang_gemma4_ext.demo.training import drafts, tokenizer
from sglang_gemma4_ext.demo.training.answers import ANSWERS, OTHERWISE
from sglang_gemma4_ext.demo.training.languages import TRANSLATIONS
from sglang_gemma4_ext.demo.training.tokenizer import END_TURN, encode
from sglang_gemma4_ext.demo.training.tool_stories import (
    EXCUSED,
    RESULT,
    TOOLS,
    Declared,
    Exchange,
    draw_declared,
    draw_exchange,
)

NEW_TOKENS = 32


@dataclass(frozen=True)
class Dialogue:
    """Hold one exchange and the tools that its client declares."""

    exchange: Exchange
    declared: Declared

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return the whole exchange as a client's history."""
        made = self.exchange
        function = {"name": made.tool, "arguments": made.arguments}
        call = {"id": "call_1", "type": "function", "function": function}
        return [
            {"role": "user", "content": made.question},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": made.result},
            {"role": "assistant", "content": made.answer},
        ]


def held_out(count: int, seed: int = 0) -> list[Dialogue]:
    """Draw held-out dialogues; the tools take turns."""
    draw, made = random.Random(f"dialogues {seed}"), []
    for number in range(count):
        name = TOOLS[number % len(TOOLS)].name
        exchange = draw_exchange(draw, name, held_out=True)
        made.append(Dialogue(exchange, draw_declared(draw, [name])))
    return made


def direct(count: int, seed: int = 0) -> list[tuple[Declared, str, str]]:
    """Draw tools with a question that needs none of them, and its answer."""
    draw, made = random.Random(f"direct {seed}"), []
    for number in range(count):
        declared = draw_declared(draw)
        missing = [name for name in EXCUSED if name not in declared.names]
        if number % 3 == 0 and missing:
            asked = draw_exchange(draw, draw.choice(missing), held_out=True)
            made.append((declared, asked.question, OTHERWISE))
        elif number % 3 == 1:
            translation = draw.choice(TRANSLATIONS)
            made.append((declared, translation.question, translation.sentence))
        else:
            asked_as, answer = draw.choice(ANSWERS)
            made.append((declared, asked_as[0], answer))
    return made


def prompt(messages: Sequence[dict[str, Any]], declared: Declared) -> list[int]:
    text = tokenizer.build().apply_chat_template(
        list(messages), tools=declared.tools, add_generation_prompt=True, tokenize=False
    )
    return list(encode(text))


def call_prompts(dialogues: Sequence[Dialogue]) -> list[list[int]]:
    return [prompt(one.messages[:1], one.declared) for one in dialogues]


def answer_prompts(dialogues: Sequence[Dialogue]) -> list[list[int]]:
    return [prompt(one.messages[:3], one.declared) for one in dialogues]


def measure(model, count: int) -> dict[str, Any]:
    """Return how many of `count` held-out dialogues have the right call, and the right answer."""
    dialogues, without = held_out(count), direct(count)

    def complete(ids: list[int]) -> list[int]:
        return drafts.complete(model, ids, NEW_TOKENS)

    calls = [complete(ids) for ids in call_prompts(dialogues)]
    answers = [complete(ids) for ids in answer_prompts(dialogues)]
    said = [
        complete(prompt([{"role": "user", "content": question}], declared))
        for declared, question, _ in without
    ]
    result = encode(RESULT)[0]
    return {
        "dialogues": count,
        "calls": sum(
            made == [*encode(one.exchange.call), result]
            for made, one in zip(calls, dialogues, strict=True)
        ),
        "answers": sum(
            made == [*encode(one.exchange.answer), END_TURN]
            for made, one in zip(answers, dialogues, strict=True)
        ),
        "direct": sum(
            made == [*encode(answer), END_TURN][:NEW_TOKENS]
            for made, (_, _, answer) in zip(said, without, strict=True)
        ),
    }
