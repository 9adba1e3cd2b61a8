# SPDX-License-Identifier: Apache-2.0
"""Serve the demo with its trained assistant: equal tokens, and drafts that are accepted.

The drafts are the assistant's own. The accept length must be equal on every attention backend of a
CPU, and close to transformers'.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers

from sglang_gemma4_ext import demo
from sglang_gemma4_ext.demo.training import drafts, quantized, question_set
from tests.probes import draft_probe
from tests.serving.harness import Server, serve

pytestmark = [pytest.mark.server, pytest.mark.slow]

NEW_TOKENS = 32
TRITON = ("--gemma4-cpu-attention", "triton", "--triton-attention-num-kv-splits", "2")


@dataclass(frozen=True)
class Drafted:
    """Hold transformers' answers to the demo: its tokens alone, and the passes saved by drafts."""

    prompts: list[list[int]]
    alone: list[list[int]]
    accepted: drafts.Accepted


@pytest.fixture(scope="module")
def reference() -> Callable[[int], Drafted]:
    """reference(n): n questions asked as a chat, and n stories to be retold."""
    model = quantized.load(demo.model_path())
    assistant = transformers.Gemma4AssistantForCausalLM.from_pretrained(
        demo.assistant_path(), dtype=torch.float32
    ).eval()

    def run(number: int) -> Drafted:
        items = question_set.read(100)[:number]
        prompts = [*drafts.question_prompts(items), *drafts.story_prompts(number)]
        alone = [drafts.complete(model, prompt, NEW_TOKENS) for prompt in prompts]
        return Drafted(prompts, alone, drafts.count(model, assistant, prompts, NEW_TOKENS))

    return run


@contextlib.contextmanager
def serve_drafting(folder: Path, *flags: str, flash_attention: bool = False) -> Iterator[Server]:
    probe = draft_probe.installed(folder, shuffle=True, flash_attention=flash_attention)
    draft = str(demo.assistant_path())
    pair = ("--demo", "--dtype", "float32", "--speculative-draft-model-path", draft)
    with probe as (env, _), serve(*pair, *flags, log_dir=folder, env=env) as server:
        yield server


def accepted_by(server: Server, expected: Drafted) -> drafts.Accepted:
    """Ask everything, compare the tokens with transformers', and count as `drafts.count` does."""
    tokens = verifications = 0
    for prompt, alone in zip(expected.prompts, expected.alone, strict=True):
        answer = server.generate(prompt, NEW_TOKENS, logprobs_from=-1, ignore_eos=False)
        assert answer["output_ids"] == alone
        tokens += len(alone) - 1
        verifications += answer["meta_info"]["spec_verify_ct"]
    return drafts.Accepted(tokens, verifications)


@pytest.mark.parametrize(
    ("backends", "number"),
    [
        (("torch_native", "fa4"), 4),
        (("torch_native", "triton"), 2),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_drafts_are_accepted_on_every_backend(backends, number, reference, tmp_path: Path):
    expected, accepted = reference(number), {}
    for name in backends:
        flags = TRITON if name == "triton" else ()
        with serve_drafting(tmp_path / name, *flags, flash_attention=name == "fa4") as server:
            accepted[name] = accepted_by(server, expected)
    first = accepted[backends[0]]
    assert all(found == first for found in accepted.values()), accepted
    assert first.length >= 2.0
    # transformers' mask shows a draft up to two more sliding keys. One verification of 30 is 3 %.
    assert first.length == pytest.approx(expected.accepted.length, rel=0.05), accepted
