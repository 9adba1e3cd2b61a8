# SPDX-License-Identifier: Apache-2.0
"""Count the tokens per verification in transformers' own assisted generation.

transformers 5.19 builds its generator for Gemma 4's assistants without two arguments. The
generator's signature requires them and its body ignores them, so `generate` raises TypeError. They
are filled in.
"""

from __future__ import annotations

import contextlib
import functools
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation import utils as generation

from sglang_gemma4_ext.demo.training import tokenizer
from sglang_gemma4_ext.demo.training.questions import LETTERS
from sglang_gemma4_ext.demo.training.row_kinds import story_for
from sglang_gemma4_ext.demo.training.tokenizer import BOS, ENDS, PAD, encode

STEPS = 3


@dataclass(frozen=True)
class Accepted:
    """Hold tokens generated after the first, which a prefill gives, and the forward passes."""

    tokens: int
    verifications: int

    @property
    def length(self) -> float:
        """Return tokens per verification: 1 if no draft is right, `STEPS` + 1 if all are."""
        return self.tokens / self.verifications


@contextlib.contextmanager
def _with_missing_arguments():
    name = "SinglePositionMultiTokenCandidateGenerator"
    original = getattr(generation, name)
    setattr(generation, name, functools.partial(original, input_ids=None, model_kwargs={}))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # both are deprecated
            yield
    finally:
        setattr(generation, name, original)


def complete(model, prompt: Sequence[int], new_tokens: int, assistant=None) -> list[int]:
    """Return the new tokens of a greedy continuation, up to the end of the turn.

    assistant: drafts them, if given
    """
    if assistant is not None:
        assistant.generation_config.num_assistant_tokens = STEPS
        assistant.generation_config.num_assistant_tokens_schedule = "constant"
    ids = torch.tensor([list(prompt)])
    with _with_missing_arguments():
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), assistant_model=assistant,
            do_sample=False, max_new_tokens=new_tokens,
            eos_token_id=list(ENDS), pad_token_id=PAD,
        )  # fmt: skip
    return made[0, len(prompt) :].tolist()


def count(model, assistant, prompts: Sequence[Sequence[int]], new_tokens: int) -> Accepted:
    """Count the accept length over all prompts by the model's forward passes."""
    passes = 0

    def counted(*_: Any) -> None:
        nonlocal passes
        passes += 1

    tokens = 0
    handle = model.register_forward_pre_hook(counted)
    try:
        for prompt in prompts:
            tokens += len(complete(model, prompt, new_tokens, assistant)) - 1
    finally:
        handle.remove()
    return Accepted(tokens, passes - len(prompts))


def question_prompts(items: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Ask the questions as a chat; the model answers with a sentence and a letter."""
    prompts = []
    for item in items:
        lines = "".join(f"\n{x}. {o}" for x, o in zip(LETTERS, item["choices"], strict=True))
        text = tokenizer.build().apply_chat_template(
            [{"role": "user", "content": item["question"] + lines}],
            add_generation_prompt=True,
            tokenize=False,
        )
        prompts.append(list(encode(text)))
    return prompts


def story_prompts(number: int, seed: int = 0) -> list[list[int]]:
    """Make free-text prompts: held-out stories that the model retells in its own order.

    If it only continued a story, greedy decoding would repeat one memorised sentence, and every
    draft would be right.
    """
    draw, prompts = random.Random(f"drafts {seed}"), []
    for _ in range(number):
        story = story_for(draw, int(draw.uniform(80, 240)), 3, (1, 2, 3, 5), held_out=True)
        prompts.append([BOS, *encode(f"{story.text}\nAgain:")])
    return prompts
