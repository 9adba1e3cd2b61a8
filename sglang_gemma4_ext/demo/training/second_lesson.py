# SPDX-License-Identifier: Apache-2.0
"""Mix the second lesson's batches: dialogues with tools, languages, and the first lesson's rows.

The first lesson's rows keep what it taught. Languages are the easiest to forget, so they get rows
of their own.
"""

from __future__ import annotations

import random

import torch

from sglang_gemma4_ext.demo.training import curriculum, tokenizer
from sglang_gemma4_ext.demo.training.answers import ANSWERS, OTHERWISE, UNKNOWN
from sglang_gemma4_ext.demo.training.curriculum import CHOOSE, STAGES, STEPS, TOKENS_PER_STEP
from sglang_gemma4_ext.demo.training.languages import TRANSLATIONS
from sglang_gemma4_ext.demo.training.loop import Schedule
from sglang_gemma4_ext.demo.training.row import ANSWER_WEIGHT, Row
from sglang_gemma4_ext.demo.training.row_kinds import chat_row, language_row
from sglang_gemma4_ext.demo.training.tokenizer import END_TURN, TURN, encode
from sglang_gemma4_ext.demo.training.tool_stories import (
    EXCUSED,
    RESULT,
    Declared,
    Exchange,
    draw_declared,
    draw_exchange,
)

SCHEDULE = Schedule(steps=700, peak=1.5e-3, warm_up=40, decay_from=300)
ASSISTANT_SCHEDULE = Schedule(steps=160, peak=1.5e-3, warm_up=20, decay_from=80)
MIX = {"tools": 0.42, "languages": 0.25, "first lesson": 0.33}
LENGTH = 512
# The other unknown questions are what a tool answers.
STILL_UNKNOWN = tuple(
    question for question in UNKNOWN if "+" not in question and question != "What time is it?"
)


def batch(seed: int, step: int) -> list[Row]:
    """Make the rows of one step, all of one length."""
    draw = random.Random(f"second {seed} {step}")
    kind = draw.choices(list(MIX), list(MIX.values()))[0]
    if kind == "first lesson":
        return curriculum.batch(seed + 2, draw.randrange(STAGES[-2].starts, STEPS))
    if kind == "tools":
        return [tool_row(draw, LENGTH) for _ in range(TOKENS_PER_STEP // LENGTH)]
    rows = TOKENS_PER_STEP // 256
    return [
        chat_row(draw, 256, None) if draw.random() < 0.2 else language_row(draw, 256, CHOOSE)
        for _ in range(rows)
    ]


def tool_row(draw: random.Random, length: int) -> Row:
    """Make a dialogue of `length` tokens in which tools are declared and mostly called."""
    row, declared = Row(), draw_declared(draw)
    begin(row, declared)
    while len(row.ids) < length:
        if draw.random() < 0.7:
            call(row, draw_exchange(draw, draw.choice(declared.names)))
        else:
            direct(row, draw, declared)
    return row.cut(length)


def begin(row: Row, declared: Declared) -> None:
    """Add the system turn, which declares the tools."""
    row.add_token(TURN, 0.0)
    row.add(f"system\n{declared.text}", 0.0)
    row.add_token(END_TURN, 0.0)
    row.add("\n", 0.0)


def call(row: Row, exchange: Exchange) -> None:
    """Add a question, its call, the result and the answer."""
    _ask(row, exchange.question)
    row.asked.append((len(row.ids), f"call {exchange.tool}"))
    row.asked.append((len(row.ids) + len(encode(exchange.call)) - 3, f"arguments {exchange.tool}"))
    row.add(exchange.call, ANSWER_WEIGHT)
    result = encode(RESULT)[0]
    row.add_token(result, ANSWER_WEIGHT)  # the model's turn ends here
    row.add(exchange.response.removeprefix(RESULT), 0.0)
    words = encode(exchange.answer)
    # Before the last token, a full stop, stands what only the result tells.
    row.asked.append((len(row.ids) + len(words) - 2, f"answer {exchange.tool}"))
    row.add(exchange.answer, ANSWER_WEIGHT)
    _end(row)


def direct(row: Row, draw: random.Random, declared: Declared) -> None:
    """Add a question that needs no declared tool: by heart, about the demo, or unknown."""
    question, answer = _without_call(draw, declared)
    _ask(row, question)
    row.asked.append((len(row.ids), "direct"))
    row.add(answer, ANSWER_WEIGHT / 2)
    _end(row)


def _without_call(draw: random.Random, declared: Declared) -> tuple[str, str]:
    missing = [name for name in EXCUSED if name not in declared.names]
    kind = draw.random()
    if missing and kind < 0.45:
        return draw_exchange(draw, draw.choice(missing)).question, OTHERWISE
    if kind < 0.65:
        translation = draw.choice(TRANSLATIONS)
        return translation.question, translation.sentence
    if kind < 0.8:
        return draw.choice(STILL_UNKNOWN), OTHERWISE
    asked, answer = draw.choice(ANSWERS)
    return draw.choice(asked), answer


def _ask(row: Row, question: str) -> None:
    row.add_token(TURN, 0.0)
    row.add(f"user\n{question}", 0.0)
    row.reply()


def _end(row: Row) -> None:
    row.add_token(END_TURN, ANSWER_WEIGHT)
    row.add("\n", 0.0)


@torch.no_grad()
def add_tokens(embeddings: torch.Tensor, seed: int) -> None:
    """Start the rows of new tokens near the mean of the known words', [vocabulary, hidden]."""
    first, last = tokenizer.first_tool_token(), len(tokenizer.build())
    known = embeddings[first - len(tokenizer.words()) : first]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(last - first, known.shape[1], generator=generator)
    embeddings[first:last] = known.mean(0) + known.std(0) * noise


def assistant_batch(seed: int, step: int) -> list[Row]:
    """Make a batch of rows that the model was not trained on, for its assistant."""
    return batch(seed + 1, step)
