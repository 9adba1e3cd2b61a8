# SPDX-License-Identifier: Apache-2.0
"""Make multiple-choice questions about a story or a language, as MMLU harnesses ask them.

In plain text the prompt is the lm-eval harness's, and the reply a letter. In a chat the answer is
the fact and then "Answer: X", for harnesses that parse replies.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from sglang_gemma4_ext.demo.training.languages import Translation
from sglang_gemma4_ext.demo.training.stories import Fact

LETTERS = "ABCD"
HEADER = "The following are multiple choice questions (with answers) about {}.\n\n"
ALL_PROMPT_WORDS = HEADER + (
    "\nA. x\nB. x\nC. x\nD. x\nAnswer: A B C D\nReply: Reply Which is \nAgain: Again\nWhat"
)


@dataclass(frozen=True)
class Choice:
    """Hold a question about `fact` with four options, of which `answer` (0 to 3) is right."""

    fact: Fact | Translation
    options: tuple[str, ...]
    answer: int

    @property
    def lines(self) -> str:
        return "".join(f"\n{letter}. {o}" for letter, o in zip(LETTERS, self.options, strict=True))

    @property
    def letter(self) -> str:
        return LETTERS[self.answer]

    @property
    def plain(self) -> str:
        """Return what follows the story in lm-eval's prompt, up to the letter."""
        return f"\n{self.fact.question}{self.lines}\nAnswer:"

    @property
    def is_held_out(self) -> bool:
        """Tell whether this combination of question and options is held out: one in sixteen.

        The order of options does not matter. Held-out translations are never trained on, and only
        they are evaluated.
        """
        combination = " ".join((self.fact.question, *sorted(self.options)))
        return hashlib.sha256(combination.encode()).digest()[0] < 16


def choose(draw: random.Random, fact: Fact | Translation, told: Sequence[Fact]) -> Choice:
    """Make a question on `fact` for training or a held-out story; `told` lists its other facts."""
    while True:
        offered = fact.options(draw, told)
        choice = Choice(fact, offered, offered.index(fact.value))
        if isinstance(fact, Fact) or not choice.is_held_out:
            return choice
