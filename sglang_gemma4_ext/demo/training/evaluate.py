# SPDX-License-Identifier: Apache-2.0
"""Measure the demo with transformers: greedy answers and held-out log-likelihood."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean
from typing import Any

import torch
import torch.nn.functional as F

from sglang_gemma4_ext.demo.training.languages import TRANSLATIONS
from sglang_gemma4_ext.demo.training.question_set import place, prompt
from sglang_gemma4_ext.demo.training.questions import LETTERS
from sglang_gemma4_ext.demo.training.row_kinds import story_for
from sglang_gemma4_ext.demo.training.tokenizer import BOS, PAD, encode

Logits = Callable[[torch.Tensor], torch.Tensor]  # ids [B, T] to logits [B, T, vocabulary]


@dataclass(frozen=True)
class Score:
    """Hold a share of `count` questions answered correctly, and its 95 % Wilson interval."""

    right: int
    count: int

    @property
    def accuracy(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        z, n, p = NormalDist().inv_cdf(0.975), self.count, self.accuracy
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


def prompt_ids(item: dict[str, Any]) -> list[int]:
    return [BOS, *encode(prompt(item))]


@torch.no_grad()
def greedy(logits: Logits, prompts: Sequence[Sequence[int]], batch: int = 25) -> list[int]:
    """Return the most likely next token of each prompt, out of the whole vocabulary."""
    answers = [0] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        longest = max(len(prompts[n]) for n in group)
        ids = torch.tensor([[*prompts[n], *[PAD] * (longest - len(prompts[n]))] for n in group])
        found = logits(ids)
        for row, number in enumerate(group):
            answers[number] = int(found[row, len(prompts[number]) - 1].argmax())
    return answers


def is_right(item: dict[str, Any], token: int) -> bool:
    return encode(f" {LETTERS[item['answer']]}") == (token,)


def score(items: Sequence[dict[str, Any]], answers: Sequence[int]) -> dict[str, Score]:
    """Score the greedy tokens: within the window, beyond it, and on languages."""
    right: dict[str, list[bool]] = {}
    for item, token in zip(items, answers, strict=True):
        right.setdefault(place(item), []).append(is_right(item, token))
    return {where: Score(sum(found), len(found)) for where, found in right.items()}


def held_out_texts(count: int, seed: int = 0) -> list[list[int]]:
    """Make held-out stories, each followed by six translations and a retelling.

    The model can know the translations and the retelling, but not the story.
    """
    draw, texts = random.Random(f"texts {seed}"), []
    for _ in range(count):
        story = story_for(draw, int(draw.uniform(60, 300)), 3, (1, 2, 3, 5), held_out=True)
        again = draw.sample(story.told, min(6, len(story.told)))
        retold = "".join(f" {fact.sentence}" for fact in again)
        known = "".join(f" {fact.sentence}" for fact in draw.sample(TRANSLATIONS, 6))
        texts.append([BOS, *encode(f"{story.text}{known}\nAgain:{retold}")])
    return texts


@torch.no_grad()
def log_likelihoods(logits: Logits, texts: Sequence[Sequence[int]]) -> list[float]:
    """Return each text's mean log-probability per token, in nats."""
    found = []
    for text in texts:
        ids = torch.tensor([text])
        losses = F.cross_entropy(logits(ids)[0, :-1].float(), ids[0, 1:])
        found.append(-losses.item())
    return found


def bootstrap_interval(values: Sequence[float], rounds: int = 1000) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean; texts are drawn with replacement."""
    draw = random.Random(0)
    means = sorted(mean(draw.choices(values, k=len(values))) for _ in range(rounds))
    return means[round(0.025 * rounds)], means[round(0.975 * rounds) - 1]


def transformers_logits(model: torch.nn.Module) -> Logits:
    return lambda ids: model(input_ids=ids).logits
