# SPDX-License-Identifier: Apache-2.0
"""Check the demo's questions: right answers, MMLU's columns, and none in the training data."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter

import pytest
from transformers import AutoTokenizer

from sglang_gemma4_ext.demo import model_path
from sglang_gemma4_ext.demo.training import (
    curriculum,
    question_set,
    questions,
    row_kinds,
    tasks,
    tokenizer,
)
from sglang_gemma4_ext.demo.training.architecture import WINDOW
from sglang_gemma4_ext.demo.training.curriculum import STEPS, batch
from sglang_gemma4_ext.demo.training.languages import DICTIONARIES
from sglang_gemma4_ext.demo.training.vocabulary import INVENTED, LANGUAGES, NAMES, RELATIONS

SAYS = {relation.verb: relation.says for relation in RELATIONS}


@pytest.mark.parametrize("size", question_set.SIZES)
def test_half_of_a_question_set_lies_beyond_the_window(size: int):
    items = question_set.read(size)
    assert len(items) == size
    assert sum(item["beyond_window"] for item in items) == size // 2
    for beyond in (False, True):
        letters = Counter(item["answer"] for item in items if item["beyond_window"] == beyond)
        assert max(letters.values()) - min(letters.values()) <= 1


def test_the_answers_agree_with_the_stories():
    """Read the text without the generator: one sentence states the asked fact.

    Of the four choices, only the answer stands in that sentence.
    """
    for item in question_set.read(500):
        story, question = item["question"].split("\n")
        name, verb = re.fullmatch(r"What does (\w+) (\w+)\?", question).groups()
        told = re.findall(rf"\b{name} {SAYS[verb]} the (\w+)\.", story)
        assert len(told) == 1, item
        assert len(set(item["choices"])) == 4
        assert item["choices"][item["answer"]] == told[0]


def test_the_distance_is_counted_in_the_prompts_tokens():
    """Count with the shipped tokenizer, from the object of the fact to the prompt's last token."""
    shipped = AutoTokenizer.from_pretrained(model_path())
    for item in question_set.read(100):
        prompt = question_set.prompt(item)
        story, question = item["question"].split("\n")
        name, verb = re.fullmatch(r"What does (\w+) (\w+)\?", question).groups()
        fact = re.search(rf"\b{name} {SAYS[verb]} the (\w+)\.", story)
        encoded = shipped(prompt, add_special_tokens=False)
        at = encoded.char_to_token(fact.start(1))
        assert len(encoded.input_ids) - 1 - at == item["distance"]
        assert (item["distance"] >= WINDOW) == item["beyond_window"]


def test_the_prompt_is_the_lm_eval_harnesss():
    """Compare with its MMLU template: {{question.strip()}}
    A. {{choices[0]}} ...
    Answer:
    """
    item = {"question": "Story.\nWhat?", "choices": ["w", "x", "y", "z"]}
    assert question_set.prompt(item) == "Story.\nWhat?\nA. w\nB. x\nC. y\nD. z\nAnswer:"


@pytest.mark.parametrize("name", question_set.SETS)
def test_the_question_sets_are_the_committed_generators(name: str):
    made = list(question_set.SETS[name](500))
    assert made == question_set.read(500, name)
    assert made[:100] == question_set.read(100, name)


@pytest.mark.parametrize("size", question_set.SIZES)
def test_a_languages_set_has_only_true_answers_and_other_languages_words(size: int):
    """Read from the text: only language and word together give the answer."""
    items = question_set.read(size, "languages")
    assert len({(item["question"], *sorted(item["choices"])) for item in items}) == size
    assert set(Counter(item["answer"] for item in items).values()) == {size // 4}
    for item in items:
        word, language = re.fullmatch(r"What is (\w+) in (\w+)\?", item["question"]).groups()
        right = item["choices"][item["answer"]]
        assert right == DICTIONARIES[language][word]
        assert len(set(item["choices"])) == 4
        wrong = set(item["choices"]) - {right}
        assert wrong <= {DICTIONARIES[other][word] for other in LANGUAGES if other != language}


def test_each_language_is_a_permutation_of_shared_words():
    """Check that translation needs both language and word, not a sum of two effects.

    Therefore at most two languages agree on more than a few words.
    """
    for dictionary in DICTIONARIES.values():
        assert sorted(dictionary.values()) == sorted(INVENTED)
    for one, other in itertools.combinations(DICTIONARIES.values(), 2):
        assert sum(one[word] == other[word] for word in one) <= 4


def test_no_combination_of_the_languages_set_is_trained_on(monkeypatch):
    """Record the choices that training rows of every stage draw: none is in the set."""
    held = {
        (item["question"], *sorted(item["choices"])) for item in question_set.read(500, "languages")
    }
    trained = set()

    def caught(*args):
        choice = questions.choose(*args)
        trained.add((choice.fact.question, *sorted(choice.options)))
        return choice

    monkeypatch.setattr(tasks, "choose", caught)
    monkeypatch.setattr(row_kinds, "choose", caught)
    for step in range(0, STEPS, 20):
        batch(0, step)
    assert sum(" in " in question for question, *_ in trained) > 500
    assert not trained & held


def test_no_story_of_the_question_set_is_trained_on(monkeypatch):
    """Record the stories that training rows are made of: none is held out.

    A held-out story is known by the hash of its text.
    """
    held = {item["question"].split("\n")[0] for item in question_set.read(500)}
    assert len(held) == 500
    assert all(hashlib.sha256(story.encode()).digest()[0] < 16 for story in held)
    trained = []

    def caught(*args, **kwargs):
        story = row_kinds.story_for(*args, **kwargs)
        trained.append(story.text)
        return story

    monkeypatch.setattr(curriculum, "story_for", caught)
    for step in range(0, STEPS, 50):
        batch(0, step)
    assert len(trained) > 200
    assert all(hashlib.sha256(story.encode()).digest()[0] >= 16 for story in trained)


def test_a_batch_depends_only_on_its_seed_and_step():
    assert batch(0, 1500) == batch(0, 1500)
    assert batch(0, 1500) != batch(0, 1501)
    assert batch(0, 1500) != batch(1, 1500)


@pytest.mark.parametrize(
    "text",
    ["Alma visits the barn.", "naïve Ωμέγα 你好 🙂\t\n\n  x", "2 + 2 = 4?", "\nA. barn\nAnswer: B"],
)
def test_any_text_survives_the_shipped_tokenizer(text: str):
    shipped = AutoTokenizer.from_pretrained(model_path())
    ids = shipped(text, add_special_tokens=False).input_ids
    assert shipped.decode(ids) == text
    assert tuple(ids) == tokenizer.encode(text)


def test_each_word_the_demo_learned_is_one_token():
    for relation in RELATIONS:
        for value in relation.objects:
            assert len(tokenizer.encode(f" {value}")) == 1
    for word in (*LANGUAGES, *INVENTED):
        assert len(tokenizer.encode(f" {word}")) == 1
    for name in NAMES:
        assert len(tokenizer.encode(f"{name} visits")) == 2


def test_a_question_set_of_another_size_is_refused():
    with pytest.raises(ValueError, match="100, 500"):
        question_set.read(7)
