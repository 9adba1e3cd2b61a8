# SPDX-License-Identifier: Apache-2.0
"""Schedule the training: recall first, then letters, then longer stories; languages throughout.

A batch depends only on the seed and its step, so that a run can stop and resume.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from sglang_gemma4_ext.demo.training.row import Row
from sglang_gemma4_ext.demo.training.row_kinds import (
    canned_row,
    chat_row,
    language_row,
    story_for,
    story_row,
)

TOKENS_PER_STEP = 2048
STEPS = 2000
LANGUAGES_SHARE = 0.2


@dataclass(frozen=True)
class Stage:
    """Describe what starts at step `starts`: row length, story length in tokens, and the tasks."""

    starts: int
    length: int
    story: tuple[int, int]
    relations: tuple[int, ...]
    per_name: int
    mix: dict[str, float]


LEARN = {"again": 2, "short": 2, "key": 2, "pick": 2, "value": 2}
ASK = {"again": 1, "reply": 1, "short": 1, "pick": 1, "value": 2, "explained": 2, "plain": 4}
CHOOSE = {"again": 1, "reply": 1, "short": 1, "value": 1, "explained": 2, "plain": 5}
STAGES = (
    Stage(0, 96, (12, 36), (1, 2), 1, LEARN),
    Stage(252, 160, (24, 70), (1, 2), 1, LEARN),
    Stage(392, 192, (40, 110), (1, 2), 1, ASK),
    Stage(784, 256, (40, 160), (1, 2, 3), 2, ASK),
    Stage(1260, 320, (40, 240), (1, 2, 3, 5), 3, CHOOSE),
    Stage(1450, 512, (40, 420), (1, 2, 3, 5), 3, CHOOSE),
)


def stage_at(step: int) -> Stage:
    return [stage for stage in STAGES if stage.starts <= step][-1]


def batch(seed: int, step: int) -> list[Row]:
    """Make the rows of one step, all of one length, `TOKENS_PER_STEP` tokens together."""
    draw = random.Random(f"train {seed} {step}")
    stage = stage_at(step)
    if draw.random() < 0.2:  # keep training the earlier stages
        stage = draw.choice(STAGES[: STAGES.index(stage) + 1])
    kind = "story"
    if step > STAGES[2].starts:
        kind = draw.choices(("story", "chat", "canned"), (0.76, 0.16, 0.08))[0]
    length = 96 if kind == "canned" else stage.length
    if kind == "story" and step > STAGES[-1].starts and draw.random() < 0.1:
        length = 1024
    rows = []
    for _ in range(max(1, TOKENS_PER_STEP // length)):
        if kind == "canned":
            rows.append(canned_row(draw, length))
            continue
        longest = stage.story[1] if length < 1024 else 800
        tokens = int(draw.uniform(stage.story[0], longest))
        story = story_for(draw, tokens, stage.per_name, stage.relations)
        by_heart = draw.random() < LANGUAGES_SHARE
        if kind == "chat":
            rows.append(chat_row(draw, length, None if by_heart else story))
        elif by_heart and length < 1024:
            rows.append(language_row(draw, length, stage.mix))
        else:
            rows.append(story_row(draw, length, story, stage.mix))
    return rows


def tensors(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and weights, both [rows, length]."""
    return torch.tensor([row.ids for row in rows]), torch.tensor([row.weights for row in rows])
