# SPDX-License-Identifier: Apache-2.0
"""Define the small world of the demo's stories: people, what they do, and what else happens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """Describe one thing a person can do to one of `objects`.

    verb: its form in a question. says: its form in a fact
    """

    subject: str
    verb: str
    says: str
    objects: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES: tuple[str, ...] = _words(
    "Abel Agnes Alma Anton Arlo Astrid Basil Bianca Boris Bruno Carla Cedric Celia Clara Conrad "
    "Cyril Daisy Dario Delia Edgar Edith Elena Elmo Enzo Esther Fabian Felix Fiona Flora Frieda "
    "Gerda Gideon Greta Gustav Harriet Hector Heidi Hilda Igor Ingrid Irene Ivan Jasper Jonas "
    "Judith Julius Karin Klara Lars Laura Leander Lena Lydia Magnus Marta Miriam Nadia Nestor "
    "Nora Oscar Otto Paula Petra Quentin"
)

RELATIONS: tuple[Relation, ...] = (
    Relation(
        "places", "visit", "visits",
        _words("barn bridge canyon castle chapel farm forest harbor island library market meadow "
              "mill mine museum palace quarry school temple tower"),
    ),
    Relation(
        "belongings", "carry", "carries",
        _words("basket blanket bottle bucket candle compass hammer kettle key ladder lamp letter "
              "map mirror needle rope saddle shovel sword umbrella"),
    ),
    Relation(
        "animals", "feed", "feeds",
        _words("badger bear camel cat cow donkey duck falcon fox goat goose hen horse lamb otter "
              "owl pony rabbit swan wolf"),
    ),
    Relation(
        "meals", "cook", "cooks",
        _words("beans beet broth cabbage carrot corn curry fish ham lentils mushroom noodles "
              "omelet pancake pie pumpkin rice soup stew turnip"),
    ),
    Relation(
        "instruments", "play", "plays",
        _words("accordion banjo bassoon bugle cello clarinet cornet drum fiddle flute gong guitar "
              "harp horn lute oboe organ piano trumpet whistle"),
    ),
)  # fmt: skip

# Learned by heart, these are easy to draft.
FILLERS: tuple[str, ...] = (
    "The morning began with rain on the roof.",
    "Nobody could remember a colder spring.",
    "A bell rang twice across the valley.",
    "The old clock had stopped at noon.",
    "Smoke rose slowly from the chimneys.",
    "Two wagons rolled down to the river.",
    "Someone had left the gate wide open.",
    "Snow was expected before the weekend.",
    "The baker sang while he swept his steps.",
    "Children counted the boats on the lake.",
    "A strong wind bent the young trees.",
    "The road to the coast was still closed.",
    "Everyone agreed that it was a fine day.",
    "Dust danced in the late afternoon light.",
    "The train came in an hour behind time.",
    "Fresh bread cooled beside the window.",
    "It grew dark and the lanterns were lit.",
    "An owl called once and then fell silent.",
    "The first stars appeared over the hills.",
    "They all went home when the music ended.",
)

LANGUAGES: tuple[str, ...] = _words("Orrish Talvic Brenese Quorran Meldish Varnic Osteric Lumese")

TRANSLATED = RELATIONS[0].objects + RELATIONS[2].objects

INVENTED: tuple[str, ...] = _words(
    "mivo desu karu tolen bazi fenno gilu horva jesto kipla lorme mundo nefil ospa pirru quole "
    "rasti sevu tarno ulbe vokka wimso yanto zedri akli bromu cheva dulfi esmo frovi gatta huwe "
    "ilko juspa kreno lapti moggu nirbe olfa prezo"
)
