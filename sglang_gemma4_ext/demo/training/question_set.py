# SPDX-License-Identifier: Apache-2.0
"""Write the held-out question sets, in the columns of MMLU on the hub (`cais/mmlu`).

The lm-eval harness reads `question`, `subject`, `choices` and `answer` (0 to 3) as
`dataset_path: json`. There are two sets of 500 items; the first hundred form the 100-item version:

- `questions`: a story is a part of its question. Two more columns say how far back the asked fact
  lies: `distance`, in tokens from its object to the last token of the plain prompt, and
  `beyond_window`.
- `languages`: closed-book, as MMLU is. The translations were learned by heart. Wrong choices are
  what other languages call the word. No question is trained on together with its choices.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.demo.training.architecture import WINDOW
from sglang_gemma4_ext.demo.training.languages import SUBJECT, TRANSLATIONS
from sglang_gemma4_ext.demo.training.questions import LETTERS, Choice, choose
from sglang_gemma4_ext.demo.training.row_kinds import story_for
from sglang_gemma4_ext.demo.training.stories import Story
from sglang_gemma4_ext.demo.training.tokenizer import encode

FOLDER = Path(__file__).parents[1] / "questions"
SIZES = (100, 500)
PLACES = ("within", "beyond", "languages")
STORY_TOKENS = (40, 420)


def distance(story: Story, choice: Choice) -> int:
    """Count the tokens from the asked fact's object to the last of the plain prompt."""
    at = story.facts.index(choice.fact)
    after = "".join(f" {sentence}" for sentence in story.sentences[at + 1 :])
    return len(encode("." + after)) + len(encode(choice.plain))


def _with_answer_at(choice: Choice, at: int) -> Choice:
    offered = list(choice.options)
    offered[at], offered[choice.answer] = offered[choice.answer], offered[at]
    return Choice(choice.fact, tuple(offered), at)


def _item(question: str, choice: Choice) -> dict[str, Any]:
    return {
        "question": question,
        "subject": choice.fact.subject,
        "choices": list(choice.options),
        "answer": choice.answer,
    }


def items(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Make questions on held-out stories, alternately within and beyond the window.

    The right letters rotate, so that each is right equally often.
    """
    draw = random.Random(f"questions {seed}")
    made = 0
    while made < count:
        beyond = made % 2 == 1
        tokens = int(draw.uniform(*STORY_TOKENS))
        story = story_for(draw, tokens, 3, (1, 2, 3, 5), held_out=True)
        choices = [choose(draw, fact, story.told) for fact in story.told]
        choices = [c for c in choices if (distance(story, c) >= WINDOW) == beyond]
        if not choices:
            continue
        choice = _with_answer_at(draw.choice(choices), made // 2 % 4)
        asked = _item(f"{story.text}\n{choice.fact.question}", choice)
        yield asked | {"distance": distance(story, choice), "beyond_window": beyond}
        made += 1


def language_items(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Make held-out questions on translations, all different; the right letters rotate."""
    draw = random.Random(f"languages {seed}")
    choices = [
        Choice(fact, (fact.value, *others), 0)
        for fact in TRANSLATIONS
        for others in itertools.combinations(fact.others, 3)
    ]
    held = [choice for choice in choices if choice.is_held_out]
    for number, choice in enumerate(draw.sample(held, count)):
        others = draw.sample(choice.options[1:], 3)
        shuffled = Choice(choice.fact, (choice.fact.value, *others), 0)
        yield _item(choice.fact.question, _with_answer_at(shuffled, number % 4))


def place(item: dict[str, Any]) -> str:
    """Tell where the answer is found, one of `PLACES`: in the text, or only in the weights."""
    if item["subject"] == SUBJECT:
        return "languages"
    return "beyond" if item["beyond_window"] else "within"


def prompt(item: dict[str, Any]) -> str:
    """Format the prompt as lm-eval does for MMLU; the reply is " A", " B", " C" or " D"."""
    lines = "".join(f"\n{x}. {o}" for x, o in zip(LETTERS, item["choices"], strict=True))
    return f"{item['question']}{lines}\nAnswer:"


SETS: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {
    "questions": items,
    "languages": language_items,
}


def write(folder: Path = FOLDER) -> None:
    """Write the four files, one JSON object a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in SETS.items():
        made = list(make(max(SIZES)))
        for size in SIZES:
            lines = [json.dumps(item) + "\n" for item in made[:size]]
            (folder / f"{name}_{size}.jsonl").write_text("".join(lines))


def read(size: int, name: str = "questions", folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Read one of `SETS`. Raises ValueError for another size."""
    if size not in SIZES:
        raise ValueError(f"the question sets have {SIZES} items, not {size}")
    return [json.loads(line) for line in (folder / f"{name}_{size}.jsonl").open()]
