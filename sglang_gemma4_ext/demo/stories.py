# SPDX-License-Identifier: Apache-2.0
"""Seeded stories: facts about people, each told once, between sentences that do not matter."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from sglang_gemma4_ext.demo.vocabulary import FILLERS, NAMES, RELATIONS, Relation


@dataclass(frozen=True)
class Fact:
    """Somebody does something to one thing; `relation` indexes `RELATIONS`."""

    name: str
    relation: int
    value: str

    @property
    def kind(self) -> Relation:
        return RELATIONS[self.relation]

    @property
    def sentence(self) -> str:
        return f"{self.name} {self.kind.says} the {self.value}."

    @property
    def question(self) -> str:
        return f"What does {self.name} {self.kind.verb}?"


@dataclass(frozen=True)
class Story:
    """Sentences in order; `facts[i]` is what sentence i tells, None where it is a filler."""

    sentences: tuple[str, ...]
    facts: tuple[Fact | None, ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    @property
    def is_held_out(self) -> bool:
        """One story in sixteen, by its text: never trained on, and all that is evaluated on."""
        return hashlib.sha256(self.text.encode()).digest()[0] < 16

    @property
    def told(self) -> list[Fact]:
        return [fact for fact in self.facts if fact is not None]


def tell(draw: random.Random, facts: int, fillers: int, relations: int, per_name: int = 1) -> Story:
    """A story of `facts` facts and `fillers` other sentences.

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
    items: list[tuple[str, Fact | None]] = [(fact.sentence, fact) for fact in told]
    for _ in range(fillers):
        items.insert(draw.randint(0, len(items)), (draw.choice(FILLERS), None))
    return Story(tuple(text for text, _ in items), tuple(fact for _, fact in items))


def options(draw: random.Random, story: Story, fact: Fact) -> tuple[str, ...]:
    """Four different choices of the fact's kind, shuffled: others in the story come first."""
    others = {other.value for other in story.told if other.relation == fact.relation}
    others = sorted(others - {fact.value})
    draw.shuffle(others)
    chosen = [fact.value, *others[: draw.randint(1, 3)]]
    unused = [value for value in fact.kind.objects if value not in chosen]
    chosen += draw.sample(unused, 4 - len(chosen))
    draw.shuffle(chosen)
    return tuple(chosen)
