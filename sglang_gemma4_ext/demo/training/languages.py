# SPDX-License-Identifier: Apache-2.0
"""Eight invented languages, learned by heart: what the experts are for.

All languages share one set of invented words, each language in an order of its own, so a
translation follows from neither the word nor the language alone: feed-forward layers have to keep
it for the pair of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sglang_gemma4_ext.demo.training.vocabulary import INVENTED, LANGUAGES, TRANSLATED

SUBJECT = "languages"


def _dictionary(language: str) -> dict[str, str]:
    order = random.Random(f"language {language}").sample(INVENTED, len(INVENTED))
    return dict(zip(TRANSLATED, order, strict=True))


DICTIONARIES = {language: _dictionary(language) for language in LANGUAGES}


@dataclass(frozen=True)
class Translation:
    """What a word is called in one of the languages; asked about as a story's fact is."""

    language: str
    word: str

    prefix = "word "  # of what the training log counts

    @property
    def value(self) -> str:
        return DICTIONARIES[self.language][self.word]

    @property
    def subject(self) -> str:
        return SUBJECT

    @property
    def lead(self) -> str:
        return f"In {self.language} the {self.word} is called"

    @property
    def sentence(self) -> str:
        return f"{self.lead} {self.value}."

    @property
    def question(self) -> str:
        return f"What is {self.word} in {self.language}?"

    @property
    def others(self) -> list[str]:
        """What the other languages call it: the wrong options, so that a right answer needs the
        language too."""
        return sorted({d[self.word] for d in DICTIONARIES.values()} - {self.value})

    def options(self, draw: random.Random, told: Sequence[object] = ()) -> tuple[str, ...]:
        """Four different choices, shuffled; what a story has told does not matter."""
        chosen = [self.value, *draw.sample(self.others, 3)]
        draw.shuffle(chosen)
        return tuple(chosen)


TRANSLATIONS = tuple(Translation(tongue, word) for tongue in LANGUAGES for word in TRANSLATED)
