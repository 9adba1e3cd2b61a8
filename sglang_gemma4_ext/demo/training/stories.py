# SPDX-License-Identifier: Apache-2.0
"""Tell seeded stories: facts about people, each told once, between filler sentences."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from sglang_gemma4_ext.demo.training.languages import TRANSLATIONS, Translation
from sglang_gemma4_ext.demo.training.vocabulary import FILLERS, NAMES, RELATIONS, Relation


@dataclass(frozen=True)
class Fact:
    """Describe what somebody does to one thing; `relation` indexes `RELATIONS`."""

    name: str
    relation: int
    value: str

    prefix = ""  # of what the training log counts

    @property
    def kind(self) -> Relation:
        return RELATIONS[self.relation]

    @property
    def subject(self) -> str:
        return self.kind.subject

    @property
    def lead(self) -> str:
        return f"{self.name} {self.kind.says} the"

    @property
    def sentence(self) -> str:
        return f"{self.lead} {self.value}."

    @property
    def question(self) -> str:
        return f"What does {self.name} {self.kind.verb}?"

    def options(self, draw: random.Random, told: Sequence[Fact]) -> tuple[str, ...]:
        """Draw four different choices of its kind, shuffled: others that were told come first."""
        others = {other.value for other in told if other.relation == self.relation}
        others = sorted(others - {self.value})
        draw.shuffle(others)
        chosen = [self.value, *others[: draw.randint(1, 3)]]
        unused = [value for value in self.kind.objects if value not in chosen]
        chosen += draw.sample(unused, 4 - len(chosen))
        draw.shuffle(chosen)
        return tuple(chosen)


@dataclass(frozen=True)
class Story:
    """Hold sentences in order; `facts[i]` is what sentence i tells, None for a filler.

    A translation does not belong to the story: it may be asked about without it.
    """

    sentences: tuple[str, ...]
    facts: tuple[Fact | Translation | None, ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    @property
    def is_held_out(self) -> bool:
        """Tell, by its text, whether this story is in the held-out sixteenth.

        Held-out stories are never trained on, and only they are evaluated.
        """
        return hashlib.sha256(self.text.encode()).digest()[0] < 16

    @property
    def told(self) -> list[Fact]:
        return [fact for fact in self.facts if isinstance(fact, Fact)]


def _aside(draw: random.Random) -> tuple[str, Translation | None]:
    if draw.random() < 0.5:
        return draw.choice(FILLERS), None
    translation = draw.choice(TRANSLATIONS)
    return translation.sentence, translation


def tell(draw: random.Random, facts: int, fillers: int, relations: int, per_name: int = 1) -> Story:
    """Tell a story of `facts` facts and `fillers` other sentences, some of them translations.

    relations: how many kinds of facts it has
    per_name: the most facts that one person has, all of different kinds
    """
    kinds = draw.sample(range(len(RELATIONS)), relations)
    per_name = min(per_name, relations)
    pairs: list[tuple[str, int]] = []
    for name in draw.sample(NAMES, min(len(NAMES), facts)):
        known = draw.randint(1, per_name)
        pairs += [(name, kind) for kind in draw.sample(kinds, known)]
        if len(pairs) >= facts:
            break
    del pairs[facts:]
    draw.shuffle(pairs)
    told = [Fact(name, kind, draw.choice(RELATIONS[kind].objects)) for name, kind in pairs]
    items: list[tuple[str, Fact | Translation | None]] = [(fact.sentence, fact) for fact in told]
    for _ in range(fillers):
        items.insert(draw.randint(0, len(items)), _aside(draw))
    return Story(tuple(text for text, _ in items), tuple(fact for _, fact in items))
