# SPDX-License-Identifier: Apache-2.0
"""Define the kinds of questions that a training row asks about a fact.

A distant fact is found by matching a person and a verb. The model must learn this lookup before it
can choose a letter by it.

- `again` retells the facts in another order; `reply` and `short` ask openly. They teach the lookup,
  several times a row. `short` asks where the question ends, as a choice needs.
- `key` and `pick` give a value and ask for its letter.
- `value` asks for the value where a choice asks for the letter.
- `plain` needs lookup and letter at once, `explained` one after the other.

No row tells a translation before it asks. It is learned by `short` and by the tasks with choices.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from sglang_gemma4_ext.demo.training.languages import Translation
from sglang_gemma4_ext.demo.training.questions import Choice, choose
from sglang_gemma4_ext.demo.training.row import FRAME_WEIGHT, Row
from sglang_gemma4_ext.demo.training.stories import Fact

Facts = Sequence[Fact] | Sequence[Translation]


def _again(row: Row, draw: random.Random, told: Facts) -> None:
    row.add("\nAgain:", FRAME_WEIGHT)
    for fact in draw.sample(told, min(6, len(told))):
        row.fact(fact, " ", "again")


def _reply(row: Row, draw: random.Random, told: Facts) -> None:
    fact = draw.choice(told)
    row.add(f"\n{fact.question}", FRAME_WEIGHT)
    row.add("\nReply:", FRAME_WEIGHT)
    row.fact(fact, " ", "reply")


def _short(row: Row, draw: random.Random, told: Facts) -> None:
    fact = draw.choice(told)
    row.add(f"\n{fact.question}", FRAME_WEIGHT)
    row.answer(fact, f" {fact.value}", "short")
    row.add(".", FRAME_WEIGHT)


def _key(row: Row, draw: random.Random, told: Facts) -> None:
    choice = choose(draw, draw.choice(told), told)
    row.options(choice, last="\nAgain:")
    for number in draw.sample(range(4), 4):
        row.add(f" {choice.options[number]}", 0.0)
        row.letter(Choice(choice.fact, choice.options, number), "key")


def _pick(row: Row, draw: random.Random, told: Facts) -> None:
    choice = choose(draw, draw.choice(told), told)
    row.add(f"\nWhich is {choice.fact.value}?", 0.0)
    row.options(choice)
    row.letter(choice, "pick")


def _plain(row: Row, draw: random.Random, told: Facts) -> None:
    choice = choose(draw, draw.choice(told), told)
    row.add(f"\n{choice.fact.question}", FRAME_WEIGHT)
    row.options(choice)
    row.letter(choice, "plain")


def _value(row: Row, draw: random.Random, told: Facts) -> None:
    choice = choose(draw, draw.choice(told), told)
    row.add(f"\n{choice.fact.question}", FRAME_WEIGHT)
    row.options(choice, last="\nReply:")
    row.answer(choice.fact, f" {choice.fact.value}", "value")


def _explained(row: Row, draw: random.Random, told: Facts) -> None:
    choice = choose(draw, draw.choice(told), told)
    row.add(f"\n{choice.fact.question}", FRAME_WEIGHT)
    row.options(choice, last="")
    row.fact(choice.fact, "\n", "explained")
    row.add("\nAnswer:", FRAME_WEIGHT)
    row.letter(choice, "letter")


TASKS: dict[str, Callable[[Row, random.Random, Facts], None]] = {
    "again": _again, "reply": _reply, "short": _short, "key": _key,
    "pick": _pick, "value": _value, "plain": _plain, "explained": _explained,
}  # fmt: skip
