# SPDX-License-Identifier: Apache-2.0
"""Define eight invented languages, which the experts learn by heart.

All languages share one set of invented words, each in an order of its own. A translation follows
from neither the word nor the language alone, so feed-forward layers must store it for the pair.
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
    """Describe a word's translation into one language; it is asked about as a story's fact is."""

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
        """Return the other languages' words as wrong options: a right answer needs the language."""
        return sorted({d[self.word] for d in DICTIONARIES.values()} - {self.value})

    def options(self, draw: random.Random, told: Sequence[object] = ()) -> tuple[str, ...]:
        """Draw four different choices, shuffled; `told` has no effect."""
        chosen = [self.value, *draw.sample(self.others, 3)]
        draw.shuffle(chosen)
        return tuple(chosen)


TRANSLATIONS = tuple(Translation(tongue, word) for tongue in LANGUAGES for word in TRANSLATED)
