# SPDX-License-Identifier: Apache-2.0
"""Training rows: a story, then questions about it until the row is full, each token weighted.

A far fact is found by matching a person and a verb, which must be learned before a letter can be
chosen by it. `again` retells the facts in another order, `reply` and `short` ask openly: they teach
the lookup, several times a row (`short` right where the question ends, where a choice needs it).
`key` and `pick` give a value and ask for its letter, `value` asks for the value where a choice asks
for the letter. `plain` needs both at once, `explained` one after the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sglang_gemma4_ext.demo.answers import ANSWERS, OTHERWISE, UNKNOWN
from sglang_gemma4_ext.demo.questions import HEADER, Choice
from sglang_gemma4_ext.demo.stories import Fact, Story, options, tell
from sglang_gemma4_ext.demo.tokenizer import BOS, END_TURN, PAD, TURN, encode

TEXT_WEIGHT, FRAME_WEIGHT, ANSWER_WEIGHT = 0.1, 0.1, 1.0


@dataclass
class Row:
    """Tokens and, for each, the weight of its own prediction; `asked` are (position, kind)."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    asked: list[tuple[int, str]] = field(default_factory=list)

    def add(self, text: str, weight: float) -> None:
        tokens = encode(text)
        self.ids += tokens
        self.weights += [weight] * len(tokens)

    def add_token(self, token: int, weight: float) -> None:
        self.ids.append(token)
        self.weights.append(weight)

    def fact(self, fact: Fact, lead: str, kind: str) -> None:
        """A fact's sentence as an answer: its object is what counts."""
        self.add(f"{lead}{fact.name} {fact.kind.says} the", FRAME_WEIGHT)
        self.asked.append((len(self.ids), kind))
        self.add(f" {fact.value}", ANSWER_WEIGHT)
        self.add(".", FRAME_WEIGHT)

    def letter(self, choice: Choice, kind: str) -> None:
        self.asked.append((len(self.ids), kind))
        self.add(f" {choice.letter}", ANSWER_WEIGHT)

    def cut(self, length: int) -> None:
        """To exactly `length`, padded with tokens that count for nothing."""
        missing = length - len(self.ids)
        self.ids = self.ids[:length] + [PAD] * missing
        self.weights = self.weights[:length] + [0.0] * missing
        self.asked = [(at, kind) for at, kind in self.asked if at < length]


def choose(draw: random.Random, story: Story, fact: Fact) -> Choice:
    offered = options(draw, story, fact)
    return Choice(fact, offered, offered.index(fact.value))


def _again(row: Row, draw: random.Random, story: Story) -> None:
    facts = draw.sample(story.told, min(6, len(story.told)))
    row.add("\nAgain:", FRAME_WEIGHT)
    for fact in facts:
        row.fact(fact, " ", "again")


def _reply(row: Row, draw: random.Random, story: Story) -> None:
    fact = draw.choice(story.told)
    row.add(f"\n{fact.question}", FRAME_WEIGHT)
    row.add("\nReply:", FRAME_WEIGHT)
    row.fact(fact, " ", "reply")


def _short(row: Row, draw: random.Random, story: Story) -> None:
    fact = draw.choice(story.told)
    row.add(f"\n{fact.question}", FRAME_WEIGHT)
    row.asked.append((len(row.ids), "short"))
    row.add(f" {fact.value}", ANSWER_WEIGHT)
    row.add(".", FRAME_WEIGHT)


def _key(row: Row, draw: random.Random, story: Story) -> None:
    choice = choose(draw, story, draw.choice(story.told))
    _options(row, choice, last="\nAgain:")
    for number in draw.sample(range(4), 4):
        row.add(f" {choice.options[number]}", 0.0)
        row.letter(Choice(choice.fact, choice.options, number), "key")


def _pick(row: Row, draw: random.Random, story: Story) -> None:
    choice = choose(draw, story, draw.choice(story.told))
    row.add(f"\nWhich is {choice.fact.value}?", 0.0)
    _options(row, choice)
    row.letter(choice, "pick")


def _plain(row: Row, draw: random.Random, story: Story) -> None:
    choice = choose(draw, story, draw.choice(story.told))
    row.add(f"\n{choice.fact.question}", FRAME_WEIGHT)
    _options(row, choice)
    row.letter(choice, "plain")


def _value(row: Row, draw: random.Random, story: Story) -> None:
    choice = choose(draw, story, draw.choice(story.told))
    row.add(f"\n{choice.fact.question}", FRAME_WEIGHT)
    _options(row, choice, last="\nReply:")
    row.asked.append((len(row.ids), "value"))
    row.add(f" {choice.fact.value}", ANSWER_WEIGHT)


def _explained(row: Row, draw: random.Random, story: Story) -> None:
    choice = choose(draw, story, draw.choice(story.told))
    row.add(f"\n{choice.fact.question}", FRAME_WEIGHT)
    _options(row, choice, last="")
    row.fact(choice.fact, "\n", "explained")
    row.add("\nAnswer:", FRAME_WEIGHT)
    row.letter(choice, "letter")


def _options(row: Row, choice: Choice, last: str = "\nAnswer:") -> None:
    for line in choice.lines.split("\n")[1:]:
        row.add(f"\n{line}", 0.0)
    if last:
        row.add(last, FRAME_WEIGHT)


KINDS: dict[str, Callable[[Row, random.Random, Story], None]] = {
    "again": _again, "reply": _reply, "short": _short, "key": _key,
    "pick": _pick, "value": _value, "plain": _plain, "explained": _explained,
}  # fmt: skip


def story_row(
    draw: random.Random,
    length: int,
    story: Story,
    mix: dict[str, float],
) -> Row:
    """A row of `length` tokens: the story, then questions of the kinds that `mix` weighs."""
    row = Row()
    row.add_token(BOS, 0.0)
    if draw.random() < 0.1:
        row.add(HEADER.format(story.told[0].kind.subject), 0.0)
    for number, sentence in enumerate(story.sentences):
        row.add(f" {sentence}" if number else sentence, TEXT_WEIGHT)
    kinds, shares = list(mix), list(mix.values())
    while len(row.ids) < length:
        KINDS[draw.choices(kinds, shares)[0]](row, draw, story)
    row.cut(length)
    return row


def chat_row(draw: random.Random, length: int, story: Story) -> Row:
    """A conversation about the story, in the chat template, as long as it fits."""
    row = Row()
    row.add_token(BOS, 0.0)
    first = True
    while len(row.ids) < length:
        choice = choose(draw, story, draw.choice(story.told))
        is_choice = draw.random() < 0.5
        row.add_token(TURN, 0.0)
        row.add("user\n", 0.0)
        if first:
            for number, sentence in enumerate(story.sentences):
                row.add(f" {sentence}" if number else sentence, TEXT_WEIGHT)
            row.add(draw.choice((" ", "\n")) + choice.fact.question, 0.0)
        else:
            row.add(choice.fact.question, 0.0)
        if is_choice:
            _options(row, choice, draw.choice(("\nAnswer:", "")))
        row.add_token(END_TURN, 0.0)
        row.add("\n", 0.0)
        row.add_token(TURN, 0.0)
        row.add("model\n", 0.0)
        row.fact(choice.fact, "", "explained" if is_choice else "reply")
        if is_choice:
            row.add("\nAnswer:", FRAME_WEIGHT)
            row.letter(choice, "letter")
        row.add_token(END_TURN, ANSWER_WEIGHT)
        row.add("\n", 0.0)
        first = False
    row.cut(length)
    return row


def canned_row(draw: random.Random, length: int) -> Row:
    """One question about the demo itself, as users type it, and its answer from `answers.py`."""
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
    row.add_token(BOS, 0.0)
    row.add_token(TURN, 0.0)
    row.add(f"user\n{question}", 0.0)
    row.add_token(END_TURN, 0.0)
    row.add("\n", 0.0)
    row.add_token(TURN, 0.0)
    row.add("model\n", 0.0)
    row.add(answer, ANSWER_WEIGHT / 2)
    row.add_token(END_TURN, ANSWER_WEIGHT)
    row.cut(length)
    return row


def story_for(
    draw: random.Random,
    tokens: int,
    per_name: int,
    relations: tuple[int, ...],
    *,
    held_out: bool = False,
) -> Story:
    """A story of about `tokens` tokens (a fact has six, a filler nine), held out or not."""
    while True:
        fillers = int(draw.uniform(0, 0.4) * tokens / 9)
        facts = max(2, (tokens - 9 * fillers) // 6)
        story = tell(draw, min(facts, 60), fillers, draw.choice(relations), per_name)
        if story.is_held_out == held_out:
            return story
