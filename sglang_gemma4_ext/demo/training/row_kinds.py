# SPDX-License-Identifier: Apache-2.0
"""Make training rows: a story with questions, or questions learned by heart, as text or chat.

The translations of a row are all different, so that none can be copied from an earlier one.
"""

from __future__ import annotations

import random

from sglang_gemma4_ext.demo.training.answers import ANSWERS, OTHERWISE, UNKNOWN
from sglang_gemma4_ext.demo.training.languages import SUBJECT, TRANSLATIONS
from sglang_gemma4_ext.demo.training.questions import HEADER, choose
from sglang_gemma4_ext.demo.training.row import ANSWER_WEIGHT, FRAME_WEIGHT, Row
from sglang_gemma4_ext.demo.training.stories import Story, tell
from sglang_gemma4_ext.demo.training.tasks import TASKS
from sglang_gemma4_ext.demo.training.tokenizer import END_TURN, TURN

BY_HEART = ("short", "value", "plain", "explained")  # the tasks that ask about a translation


def story_row(draw: random.Random, length: int, story: Story, mix: dict[str, float]) -> Row:
    """Make a row of `length` tokens: the story, then questions of the kinds that `mix` weighs."""
    row = Row()
    if draw.random() < 0.1:
        row.add(HEADER.format(story.told[0].subject), 0.0)
    row.story(story)
    kinds, shares = list(mix), list(mix.values())
    while len(row.ids) < length:
        TASKS[draw.choices(kinds, shares)[0]](row, draw, story.told)
    return row.cut(length)


def language_row(draw: random.Random, length: int, mix: dict[str, float]) -> Row:
    """Make a row of `length` tokens: translations told and asked, of the kinds in `mix`."""
    row = Row()
    if draw.random() < 0.1:
        row.add(HEADER.format(SUBJECT), 0.0)
    kinds = ["told", *(kind for kind in BY_HEART if kind in mix)]
    shares = [2.0, *(mix[kind] for kind in kinds[1:])]
    for translation in draw.sample(TRANSLATIONS, len(TRANSLATIONS)):
        if len(row.ids) >= length:
            break
        kind = draw.choices(kinds, shares)[0]
        if kind == "told":
            row.fact(translation, draw.choice((" ", "\n")), kind)
        else:
            TASKS[kind](row, draw, [translation])
    return row.cut(length)


def chat_row(draw: random.Random, length: int, story: Story | None) -> Row:
    """Make a chat about the story, or without a story about languages, in the chat template."""
    row = Row()
    if story:
        facts = [draw.choice(story.told) for _ in range(length // 8)]
    else:
        facts = draw.sample(TRANSLATIONS, length // 8)
    for number, fact in enumerate(facts):
        choice = choose(draw, fact, story.told if story else ())
        is_choice = draw.random() < 0.5
        row.add_token(TURN, 0.0)
        row.add("user", 0.0)
        if story and not number:
            row.story(story, first="\n")
            row.add(draw.choice((" ", "\n")) + fact.question, 0.0)
        else:
            row.add(f"\n{fact.question}", FRAME_WEIGHT)
        if is_choice:
            row.options(choice, draw.choice(("\nAnswer:", "")))
        row.reply()
        row.fact(fact, "", "explained" if is_choice else "reply")
        if is_choice:
            row.add("\nAnswer:", FRAME_WEIGHT)
            row.letter(choice, "letter")
        row.add_token(END_TURN, ANSWER_WEIGHT)
        row.add("\n", 0.0)
    return row.cut(length)


def canned_row(draw: random.Random, length: int) -> Row:
    """Make one question about the demo itself, as users type it, with its answer."""
    if draw.random() < 0.25:
        question, answer = draw.choice(UNKNOWN), OTHERWISE
    else:
        asked, answer = draw.choice(ANSWERS)
        question = draw.choice(asked)
    if draw.random() < 0.2:
        question = question.lower()
    if draw.random() < 0.2:
        question = question.rstrip("?.!")
    row = Row()
    row.add_token(TURN, 0.0)
    row.add(f"user\n{question}", 0.0)
    row.reply()
    row.add(answer, ANSWER_WEIGHT / 2)
    row.add_token(END_TURN, ANSWER_WEIGHT)
    return row.cut(length)


def story_for(
    draw: random.Random,
    tokens: int,
    per_name: int,
    relations: tuple[int, ...],
    *,
    held_out: bool = False,
) -> Story:
    """Make a story of about `tokens` tokens (a fact has six, a filler nine), held out or not."""
    while True:
        fillers = int(draw.uniform(0, 0.4) * tokens / 9)
        facts = max(2, (tokens - 9 * fillers) // 6)
        story = tell(draw, min(facts, 60), fillers, draw.choice(relations), per_name)
        if story.is_held_out == held_out:
            return story
