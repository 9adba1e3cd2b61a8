# SPDX-License-Identifier: Apache-2.0
"""Multiple-choice questions about a story, as MMLU harnesses put them, and open ones to learn by.

In plain text the prompt is the lm-eval harness's, and the reply a letter. In a chat the same
question is answered by the fact and then "Answer: X", as harnesses that parse replies want it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_gemma4_ext.demo.stories import Fact

LETTERS = "ABCD"
HEADER = "The following are multiple choice questions (with answers) about {}.\n\n"
ALL_PROMPT_WORDS = HEADER + (
    "\nA. x\nB. x\nC. x\nD. x\nAnswer: A B C D\nReply: Reply Which is \nAgain: Again\nWhat"
)


@dataclass(frozen=True)
class Choice:
    """A question about `fact` with four options, of which `answer` (0 to 3) is right."""

    fact: Fact
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
        """What follows the story in lm-eval's prompt, up to the letter."""
        return f"\n{self.fact.question}{self.lines}\nAnswer:"

    @property
    def explained(self) -> str:
        """The reply in words: the fact, then the letter."""
        return f"{self.fact.sentence}\nAnswer: {self.letter}"
