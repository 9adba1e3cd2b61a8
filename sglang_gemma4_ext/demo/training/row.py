# SPDX-License-Identifier: Apache-2.0
"""Build one training row: tokens, their loss weights, and the positions of answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_gemma4_ext.demo.training.languages import Translation
from sglang_gemma4_ext.demo.training.questions import Choice
from sglang_gemma4_ext.demo.training.stories import Fact, Story
from sglang_gemma4_ext.demo.training.tokenizer import BOS, END_TURN, PAD, TURN, encode

TEXT_WEIGHT, FRAME_WEIGHT, ANSWER_WEIGHT = 0.1, 0.1, 1.0


@dataclass
class Row:
    """Hold tokens, each with the weight of its own prediction; `asked` are (position, kind)."""

    ids: list[int] = field(default_factory=lambda: [BOS])
    weights: list[float] = field(default_factory=lambda: [0.0])
    asked: list[tuple[int, str]] = field(default_factory=list)

    def add(self, text: str, weight: float) -> None:
        tokens = encode(text)
        self.ids += tokens
        self.weights += [weight] * len(tokens)

    def add_token(self, token: int, weight: float) -> None:
        self.ids.append(token)
        self.weights.append(weight)

    def answer(self, fact: Fact | Translation, text: str, kind: str) -> None:
        """Add the answer about `fact`, logged as `kind`."""
        self.asked.append((len(self.ids), f"{fact.prefix}{kind}"))
        self.add(text, ANSWER_WEIGHT)

    def fact(self, fact: Fact | Translation, lead: str, kind: str) -> None:
        """Add a fact's sentence as an answer; its last word is scored."""
        self.add(f"{lead}{fact.lead}", FRAME_WEIGHT)
        self.answer(fact, f" {fact.value}", kind)
        self.add(".", FRAME_WEIGHT)

    def story(self, story: Story, first: str = "") -> None:
        """Add a story; its facts are new and count little, but a translation in it can be known.

        first: the text before the story
        """
        for number, (sentence, fact) in enumerate(zip(story.sentences, story.facts, strict=True)):
            lead = " " if number else first
            if isinstance(fact, Translation):
                self.fact(fact, lead, "told")
            else:
                self.add(f"{lead}{sentence}", TEXT_WEIGHT)

    def options(self, choice: Choice, last: str = "\nAnswer:") -> None:
        for line in choice.lines.split("\n")[1:]:
            self.add(f"\n{line}", 0.0)
        if last:
            self.add(last, FRAME_WEIGHT)

    def letter(self, choice: Choice, kind: str) -> None:
        self.answer(choice.fact, f" {choice.letter}", kind)

    def reply(self) -> None:
        """End the user's turn and begin the model's."""
        self.add_token(END_TURN, 0.0)
        self.add("\n", 0.0)
        self.add_token(TURN, 0.0)
        self.add("model\n", 0.0)

    def cut(self, length: int) -> Row:
        """Cut or pad to exactly `length`; padding has weight 0."""
        missing = length - len(self.ids)
        self.ids = self.ids[:length] + [PAD] * missing
        self.weights = self.weights[:length] + [0.0] * missing
        self.asked = [(at, kind) for at, kind in self.asked if at < length]
        return self
