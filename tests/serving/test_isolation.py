# SPDX-License-Identifier: Apache-2.0
"""Run 32 streams in a pool for a few of them: each answers as if it were alone.

Prompts end below, across and beyond the window and share prefixes; long ones are prefilled in
chunks. Some clients disconnect in mid-stream. The pool is so small that requests are retracted and
run again. Its sliding half holds them only because slots behind the window are freed.

Three checks of SGLang stop the server. It counts its slots after every batch, it looks for pages
with two owners, and its canary compares every key read with the key written.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from bench.checkpoints.tiny import WINDOW
from tests.checkpoints.assistant import build_assistant
from tests.probes import canary_on_cpu, draft_probe
from tests.serving.drafts import DraftReference
from tests.serving.harness import Server, serve
from tests.serving.parity import Reference, prompt_ids

pytestmark = [pytest.mark.server, pytest.mark.slow]

STREAMS, NEW, LONG, CHUNK = 32, 60, 150, 64
SHARED = prompt_ids(2 * WINDOW, seed=9)
LENGTHS = (6, WINDOW - 2, WINDOW, WINDOW + 1, 50, 70, 100)
FLAGS = (
    "--dtype", "float32", "--chunked-prefill-size", str(CHUNK), "--max-running-requests", "16",
    "--max-total-tokens", "450", "--schedule-conservativeness", "0.05",
    "--decode-log-interval", "1",
)  # fmt: skip
CHECKED = {
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
    "SGLANG_CHECK_KV_PAGE_INVARIANTS": "1",
}


def prompts() -> list[list[int]]:
    """Make prompts; every second one begins with a part or all of SHARED."""
    made = []
    for i in range(STREAMS):
        own = prompt_ids(LENGTHS[i % len(LENGTHS)], seed=20 + i)
        made.append([*SHARED[: 16 * (i % 5)], *own] if i % 2 else own)
    return made


def disconnect(server: Server, prompt: list[int], after: int) -> None:
    """Start a long streamed answer and close the connection after some of its chunks."""
    body = {
        "input_ids": prompt,
        "stream": True,
        "sampling_params": {"temperature": 0, "max_new_tokens": LONG},
    }
    with requests.post(f"{server.url}/generate", json=body, stream=True, timeout=1500) as answer:
        chunks = (json.loads(line[6:]) for line in answer.iter_lines() if line)
        for _ in range(after):
            assert next(chunks)["meta_info"]["finish_reason"] is None


def together(server: Server, asked: list[list[int]], new: int = NEW) -> list[list[int]]:
    """Ask for `new` tokens of every prompt at once; a quarter as many clients disconnect."""
    draw = random.Random(0)
    order = draw.sample(range(len(asked)), len(asked))
    with ThreadPoolExecutor(len(asked) + len(asked) // 4) as pool:
        answers = {}
        left = []
        for place, index in enumerate(order):
            # A request that ignores eos reserves its whole output, and is never retracted.
            answers[index] = pool.submit(
                server.generate, asked[index], new, logprobs_from=-1, ignore_eos=False
            )
            if place % 4 == 0:
                left.append(
                    pool.submit(disconnect, server, asked[index], draw.randrange(1, new // 2))
                )
        for one in left:
            one.result()
        return [answers[index].result()["output_ids"] for index in range(len(asked))]


def require_pressure(log: str) -> None:
    """Require retractions, shared prefixes, chunked prefills and freed window slots in the log."""
    counted = {
        name: [int(number) for number in re.findall(rf"#{name}: (\d+)", log)]
        for name in ("retracted_reqs", "cached-token", "new-token")
    }
    assert sum(counted["retracted_reqs"]) > 0
    assert sum(counted["cached-token"]) > WINDOW
    assert counted["new-token"].count(CHUNK) > 3
    full_and_sliding = re.findall(r"#full token: (\d+),.*?#swa token: (\d+)", log)
    most_freed = max(int(full) - int(sliding) for full, sliding in full_and_sliding)
    assert most_freed > 2 * WINDOW


def require_empty(server: Server) -> None:
    """Require that no request is left, and no token in either pool without the prefix cache."""
    deadline = time.monotonic() + 20
    while (used := load(server))["num_running_reqs"] + used["num_waiting_reqs"]:
        assert time.monotonic() < deadline, used
        time.sleep(0.1)
    server.flush()
    used = load(server)
    # The larger count of the two pools.
    assert used["num_used_tokens"] == 0 and used["token_usage"] == 0, used
    assert server.process.poll() is None
    for complaint in ("leak", "Traceback", "violation detected", "double free", "use-after-free"):
        assert complaint not in server.log


def load(server: Server) -> dict[str, Any]:
    (only,) = requests.get(f"{server.url}/v1/loads", timeout=90).json()["loads"]
    return only


def require_as_alone(path: Path, asked: list[list[int]], found: list[list[int]], new: int) -> None:
    """Compare each answer with transformers' greedy continuation of its prompt alone."""
    reference = Reference(path)
    for prompt, tokens in zip(asked, found, strict=True):
        assert len(tokens) == new
        table = reference.log_probs(prompt, tokens)
        assert table[len(prompt) - 1 : -1].argmax(-1).tolist() == tokens, len(prompt)


@pytest.mark.parametrize("kind", ["dense", "moe", "e2b"])
def test_every_stream_answers_as_alone(checkpoint, tmp_path, kind):
    path, asked = checkpoint(kind), prompts()
    env = {**CHECKED, **canary_on_cpu.installed(tmp_path)}
    flags = ("--model-path", str(path), *FLAGS, *canary_on_cpu.FLAGS)
    with serve(*flags, log_dir=tmp_path, env=env) as server:
        found = together(server, asked)
        require_pressure(server.log)
        assert "[canary] sweep succeeded" in server.log
        require_empty(server)
    require_as_alone(path, asked, found, NEW)


def test_every_stream_answers_as_alone_in_the_shared_pool(checkpoint, tmp_path):
    """Test the pool of a GPU through Triton's interpreter, with fewer and shorter streams.

    The canary is off: the shared pool moves slots, and the canary's record does not follow.
    """
    path, asked, new = checkpoint("dense"), prompts()[:12], 16
    triton = ("--gemma4-cpu-attention", "triton", "--triton-attention-num-kv-splits", "2")
    flags = ("--model-path", str(path), *FLAGS, *triton, "--max-total-tokens", "240")
    with serve(*flags, log_dir=tmp_path, env=CHECKED) as server:
        assert "KV split: one pool of" in server.log
        found = together(server, asked, new)
        require_pressure(server.log)
        require_empty(server)
    require_as_alone(path, asked, found, new)


@pytest.mark.parametrize("kind", ["dense", "moe", "e2b"])
def test_every_stream_answers_as_alone_with_drafts(checkpoint, tmp_path, kind):
    """Test MTP with drafts steered to be wrong at every fifth position, and shuffled slots."""
    target, asked = checkpoint(kind), prompts()
    draft = build_assistant(target, tmp_path / "assistant")
    reference = DraftReference(Reference(target), draft)
    known = [reference.greedy(prompt, NEW) for prompt in asked]
    flags = ("--model-path", str(target), "--speculative-draft-model-path", str(draft))
    with draft_probe.installed(tmp_path, shuffle=True) as (env, order):
        order(known=known, wrong_every=5)
        env = {**CHECKED, **env, **canary_on_cpu.installed(tmp_path)}
        flags = (*flags, *FLAGS, *canary_on_cpu.FLAGS)
        with serve(*flags, log_dir=tmp_path, env=env) as server:
            found = together(server, asked)
            require_pressure(server.log)
            accepted = [float(n) for n in re.findall(r"accept len: ([\d.]+)", server.log)]
            assert max(accepted) > 2
            assert "[canary] sweep succeeded" in server.log
            require_empty(server)
    assert found == [tokens[len(p) :] for tokens, p in zip(known, asked, strict=True)]


def test_the_canary_finds_a_slot_of_another_request(checkpoint, tmp_path):
    """Use SGLang's own fault injection, which changes a slot-table entry before a forward."""
    env = {
        **canary_on_cpu.installed(tmp_path),
        "SGLANG_KV_CANARY_PERTURB_REQ_TO_TOKEN_PROB": "1",
        "SGLANG_KV_CANARY_PERTURB_WARMUP_STEPS": "30",
    }
    flags = ("--model-path", str(checkpoint("dense")), *FLAGS, *canary_on_cpu.FLAGS)
    with serve(*flags, log_dir=tmp_path, env=env) as server:
        with contextlib.suppress(requests.RequestException):
            server.generate(prompt_ids(50), 60)
        assert server.logs("KV cache canary violation detected", within_s=60)
