# SPDX-License-Identifier: Apache-2.0
"""Check that greedy decoding with an MTP assistant equals transformers' without one.

The assistants are random, so drafts are steered to the continuation, wrong at every fifth position.
The sliding pool's slots are shuffled. What a draft computes before it is steered is compared with
transformers' assistant.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import torch
from safetensors.torch import load_file

from bench.checkpoints.tokenizer import MAX_LENGTH
from tests.chat.masked import made_tokenizer
from tests.checkpoints.assistant import build_assistant
from tests.probes import draft_probe
from tests.serving.drafts import LOGITS_TOLERANCE, DraftReference
from tests.serving.harness import Server, serve
from tests.serving.parity import FP32_TOLERANCE, Reference, prompt_ids

pytestmark = pytest.mark.server

TREE = ("--speculative-eagle-topk", "3", "--speculative-num-draft-tokens", "8")
TRITON = ("--gemma4-cpu-attention", "triton", "--triton-attention-num-kv-splits", "2")
CLEARLY_WRONG = 50 * LOGITS_TOLERANCE


@dataclass(frozen=True)
class Case:
    """Describe a target's kind, the server's flags, and prompt length -> new tokens."""

    name: str
    kind: str
    flags: tuple[str, ...] = ()
    flash_attention: bool = False
    load: tuple[tuple[int, int], ...] = ((5, 128), (31, 32), (33, 32), (70, 128), (400, 32))


@dataclass(frozen=True)
class Running:
    case: Case
    server: Server
    reference: DraftReference
    order: Callable[..., None]
    known: list[list[int]]


@pytest.fixture(scope="module")
def references(checkpoint, tmp_path_factory) -> Callable[[str], tuple[Path, Path, DraftReference]]:
    """references(kind): target, assistant, and transformers with both."""
    made: dict[str, tuple[Path, Path, DraftReference]] = {}

    def get(kind: str) -> tuple[Path, Path, DraftReference]:
        if kind not in made:
            target = checkpoint(kind)
            draft = build_assistant(target, tmp_path_factory.mktemp("assistant") / kind)
            made[kind] = target, draft, DraftReference(Reference(target), draft)
        return made[kind]

    return get


CASES = (
    Case("dense", "dense"),
    Case("e2b-tree", "e2b", TREE),
)
SLOW_CASES = (
    Case("dense-fa4", "dense", flash_attention=True, load=((33, 32), (70, 64))),
    Case("moe", "moe"),
    Case("causal", "causal"),
    Case("dense-tree", "dense", TREE),
    Case("e2b-chunks", "e2b", ("--chunked-prefill-size", "64")),
    Case("dense-no-radix", "dense", ("--disable-radix-cache",)),
    Case("dense-triton", "dense", TRITON, load=((5, 8), (30, 12), (60, 12))),
    Case("dense-triton-tree", "dense", (*TRITON, *TREE), load=((60, 12),)),
)


@pytest.fixture(
    scope="module",
    params=[*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW_CASES)],
    ids=lambda case: case.name,
)
def running(request, references, tmp_path_factory) -> Iterator[Running]:
    case = request.param
    target, draft, reference = references(case.kind)
    known = [reference.greedy(prompt_ids(length), new) for length, new in case.load]
    folder = tmp_path_factory.mktemp(case.name)
    flags = ("--model-path", str(target), "--speculative-draft-model-path", str(draft))
    probe = draft_probe.installed(folder, shuffle=True, flash_attention=case.flash_attention)
    with (
        probe as (env, order),
        serve(*flags, "--dtype", "float32", *case.flags, log_dir=folder, env=env) as server,
    ):
        yield Running(case, server, reference, order, known)


def test_tokens_and_drafts(running: Running, tmp_path: Path):
    running.order(known=running.known, wrong_every=5, record=str(tmp_path))
    for known, (length, new) in zip(running.known, running.case.load, strict=True):
        answer = running.server.generate(known[:length], new, logprobs_from=-1)
        assert answer["output_ids"] == known[length:], length
        # At least three of four are right, so most of the three drafted tokens are accepted.
        assert answer["meta_info"]["spec_accept_length"] > 2, length
    assert running.reference.worst(tmp_path) <= LOGITS_TOLERANCE


def test_the_plan_counts_the_assistants_weights(running: Running, references):
    """Compare the launcher's summary to the byte; test_swa_policy.py checks the pools beside it."""
    _, draft, _ = references(running.case.kind)
    tensors = load_file(draft / "model.safetensors").values()
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert re.search(
        rf"^  memory     weights .*, draft {stored:,} bytes$", running.server.log, re.M
    )


def test_wrong_drafts_change_no_token(running: Running):
    running.order()
    known, (length, new) = running.known[0], running.case.load[0]
    new = min(new, 8 if "triton" in running.case.name else 32)
    answer = running.server.generate(known[:length], new, logprobs_from=-1)
    assert answer["output_ids"] == known[length : length + new]


def test_sampling_from_the_only_likely_token_is_greedy(running: Running):
    """Pass temperature, top-k and top-p through the tree; a top-k of 1 is deterministic."""
    known, (length, new) = running.known[0], running.case.load[0]
    running.order(known=running.known, wrong_every=5)
    new = min(new, 8)
    sampling = {"temperature": 1.0, "top_k": 1, "top_p": 0.9}
    answer = running.server.generate(known[:length], new, logprobs_from=-1, **sampling)
    assert answer["output_ids"] == known[length : length + new]
    sampling = {"temperature": 1.0, "top_k": 20, "top_p": 0.9}
    answer = running.server.generate(known[:length], new, logprobs_from=-1, **sampling)
    assert len(answer["output_ids"]) == new


def test_log_probabilities_of_drafted_tokens(running: Running):
    known, (length, new) = running.known[-1], running.case.load[-1]
    running.order(known=running.known, wrong_every=5)
    answer = running.server.generate(known[:length], new, logprobs_from=-1)
    assert answer["output_ids"] == known[length : length + new]
    served = torch.tensor([value for value, *_ in answer["meta_info"]["output_token_logprobs"]])
    expected = running.reference.log_probs(known[: length + new], length)
    assert (served - expected).abs().max() <= FP32_TOLERANCE


@pytest.mark.slow
@pytest.mark.xfail(
    strict=True,
    reason="SGLang verifies a draft under the penalties of earlier steps: tokens that one step "
    "accepts do not penalize each other",
)
def test_penalties(running: Running):
    """Drafts are right but for every fifth token, so that several are verified at once."""
    length, new = running.case.load[0]
    prompt, new = running.known[0][:length], min(new, 4 if "triton" in running.case.name else 24)
    penalties = {"frequency": 1.5, "presence": 1.0}
    expected = running.reference.penalized(prompt, new, **penalties)
    assert expected != running.known[0][: length + new]
    running.order(known=[expected], wrong_every=5)
    named = {f"{name}_penalty": value for name, value in penalties.items()}
    answer = running.server.generate(prompt, new, logprobs_from=-1, **named)
    assert answer["output_ids"] == expected[length:]


def test_a_grammar(running: Running):
    """Constrain to six letters, which the toy tokenizer writes as six tokens."""
    length, _ = running.case.load[0]
    prompt = running.known[0][:length]
    texts = ["".join(letters) for letters in itertools.product("ab", "cd", "ef", "gh", "ij", "kl")]
    choices = [made_tokenizer().encode(text, add_special_tokens=False) for text in texts]
    choices = [choice for choice in choices if len(choice) == 6]
    assert len(choices) == len(texts)
    expected = running.reference.allowed(prompt, choices)
    for known in (expected, running.known[0]):  # drafts that the grammar allows, and others
        running.order(known=[known], wrong_every=5)
        answer = running.server.generate(
            prompt, 12, logprobs_from=-1, regex="[ab][cd][ef][gh][ij][kl]", ignore_eos=False
        )
        assert answer["output_ids"][:6] == expected[length:]
        assert answer["text"] == made_tokenizer().decode(expected[length:])


# In Triton's interpreter 2,000 tokens take an hour, so its cases are left out.
TO_THE_END = tuple(case for case in (*CASES, *SLOW_CASES) if case.flags[:4] != TRITON)


@pytest.mark.slow
@pytest.mark.parametrize("running", TO_THE_END, indirect=True, ids=lambda case: case.name)
def test_the_end_of_the_context(running: Running):
    """Answer the longest prompts that SGLang admits, and refuse longer ones in a sentence.

    SGLang reserves room for the tokens of a verification, more of it for a tree.
    """

    def ask(room: int, new: int) -> requests.Response:
        sampling = {"temperature": 0, "max_new_tokens": new, "ignore_eos": True}
        body = {"input_ids": prompt_ids(MAX_LENGTH - room, seed=8), "sampling_params": sampling}
        return requests.post(f"{running.server.url}/generate", json=body, timeout=1800)

    refused = ask(1, 1)
    assert refused.status_code == 400 and "context length" in refused.text
    least = next(room for room in range(2, 40) if ask(room, 1).ok)
    for more in (0, 2, 5):
        prompt = prompt_ids(MAX_LENGTH - least - more, seed=8)
        expected = running.reference.greedy(prompt, 1 + more)
        running.order(known=[expected], wrong_every=5)
        answer = ask(least + more, 1 + more)
        assert answer.ok, (least, more, answer.text)
        assert answer.json()["output_ids"] == expected[len(prompt) :], (least, more)
        assert answer.json()["meta_info"]["finish_reason"]["type"] == "length"
    assert running.server.generate(running.known[0][:5], 4)["output_ids"]


def test_concurrent_requests(running: Running):
    """Send four at once, below, across and beyond the window."""
    new = 4 if "triton" in running.case.name else 40
    prompts = [prompt_ids(length, seed=4) for length in (6, 30, 64, 190)]
    known = [running.reference.greedy(prompt, new) for prompt in prompts]
    running.order(known=known, wrong_every=5)
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(
            pool.map(lambda ids: running.server.generate(ids, new, logprobs_from=-1), prompts)
        )
    for answer, tokens, prompt in zip(answers, known, prompts, strict=True):
        assert answer["output_ids"] == tokens[len(prompt) :], len(prompt)


@pytest.mark.slow
def test_retraction_under_a_tiny_pool(references, tmp_path: Path):
    """Admit requests with little reserve, so that they are retracted and run again.

    After a prefill, exactly the sliding keys that the next token sees remain.
    """
    target, draft, reference = references("dense")
    prompts = [prompt_ids(length, seed=6) for length in (23, 22, 21, 20)]
    known = [reference.greedy(prompt, 150) for prompt in prompts]
    flags = ("--model-path", str(target), "--speculative-draft-model-path", str(draft))
    pool = ("--max-total-tokens", "400", "--schedule-conservativeness", "0.05")
    record = tmp_path / "record"
    record.mkdir()
    with (
        draft_probe.installed(tmp_path, shuffle=True) as (env, order),
        serve(*flags, *pool, "--dtype", "float32", log_dir=tmp_path, env=env) as server,
    ):
        order(known=known, wrong_every=5, record=str(record))
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as threads:
            answers = list(
                threads.map(lambda ids: server.generate(ids, 150, logprobs_from=-1), prompts)
            )
        assert "Retract requests" in server.log
    for answer, tokens, prompt in zip(answers, known, prompts, strict=True):
        assert answer["output_ids"] == tokens[len(prompt) :], len(prompt)
    assert reference.worst(record) <= LOGITS_TOLERANCE


@pytest.mark.parametrize(
    ("patch", "flash_attention"),
    [
        pytest.param("swa_state_follows_pool", True, marks=pytest.mark.slow),
        pytest.param("draft_position", False, marks=pytest.mark.slow),
    ],
)
def test_drafts_are_wrong_without(patch, flash_attention, references, tmp_path: Path):
    """Check the drafts themselves: the target's tokens stay right without the patch."""
    target, draft, reference = references("dense")
    known = reference.greedy(prompt_ids(50), 24)
    flags = ("--model-path", str(target), "--speculative-draft-model-path", str(draft))
    probe = draft_probe.installed(tmp_path, shuffle=True, flash_attention=flash_attention)
    record = tmp_path / "record"
    record.mkdir()
    left_out = ("--dtype", "float32", "--gemma4-ext-disable", patch)
    with probe as (env, order), serve(*flags, *left_out, log_dir=tmp_path, env=env) as server:
        order(known=[known], wrong_every=5, record=str(record))
        answer = server.generate(known[:50], 24, logprobs_from=-1)
    assert answer["output_ids"] == known[50:]
    assert reference.worst(record) > CLEARLY_WRONG


@pytest.mark.slow
def test_trees_are_wrong_without_exact_tree_window(references, tmp_path: Path):
    """Check beyond the window: stock's greedy tokens with top-k 3 differ there."""
    target, draft, reference = references("dense")
    known = reference.greedy(prompt_ids(40), 10)
    flags = ("--model-path", str(target), "--speculative-draft-model-path", str(draft))
    left_out = ("--dtype", "float32", "--gemma4-ext-disable", "exact_tree_window")
    with (
        draft_probe.installed(tmp_path, shuffle=True) as (env, order),
        serve(*flags, *TRITON, *TREE, *left_out, log_dir=tmp_path, env=env) as server,
    ):
        order(known=[known], wrong_every=5)
        assert server.generate(known[:40], 10, logprobs_from=-1)["output_ids"] != known[40:]


@pytest.mark.slow
def test_the_bounds_check_finds_nothing(references, tmp_path: Path):
    """Run the check before every layer of target and draft."""
    target, draft, reference = references("dense")
    known = reference.greedy(prompt_ids(50), 8)
    flags = ("--model-path", str(target), "--speculative-draft-model-path", str(draft))
    with (
        draft_probe.installed(tmp_path, shuffle=True) as (env, order),
        serve(
            *(*flags, *TRITON, "--dtype", "float32"),
            log_dir=tmp_path,
            env={**env, "SGLANG_TRTLLM_MHA_DEBUG": "1"},
        ) as server,
    ):
        order(known=[known], wrong_every=5)
        assert server.generate(known[:50], 8, logprobs_from=-1)["output_ids"] == known[50:]
        assert "KVBoundsError" not in server.log
