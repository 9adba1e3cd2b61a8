# SPDX-License-Identifier: Apache-2.0
"""Thirty-two streams at once in a pool for a few of them: each answers as if it were alone.

Prompts end below, across and beyond the window and share prefixes; long ones are prefilled in
chunks; some clients leave in mid-stream; the pool is so small that requests are thrown out and
begun again. SGLang checks its pools after every batch and stops at a leaked slot.
"""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.checkpoints.tiny import WINDOW
from tests.serving.harness import Server, serve
from tests.serving.parity import Reference, prompt_ids

pytestmark = [pytest.mark.server, pytest.mark.slow]

STREAMS, NEW, LONG = 32, 80, 150
SHARED = prompt_ids(2 * WINDOW, seed=9)
LENGTHS = (6, WINDOW - 2, WINDOW, WINDOW + 1, 50, 70, 100)
FLAGS = (
    "--dtype", "float32", "--chunked-prefill-size", "64", "--max-running-requests", "16",
    "--max-total-tokens", "450", "--schedule-conservativeness", "0.05",
)  # fmt: skip
CHECKED = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1"}


def prompts() -> list[list[int]]:
    """Every second one begins with a part or all of SHARED."""
    made = []
    for i in range(STREAMS):
        own = prompt_ids(LENGTHS[i % len(LENGTHS)], seed=20 + i)
        made.append([*SHARED[: 16 * (i % 5)], *own] if i % 2 else own)
    return made


def leave(server: Server, prompt: list[int], after: int) -> None:
    """Begin a long streamed answer and close the connection after some of its chunks."""
    sampling = {"temperature": 0, "max_new_tokens": LONG, "ignore_eos": True}
    body = {"input_ids": prompt, "stream": True, "sampling_params": sampling}
    with requests.post(f"{server.url}/generate", json=body, stream=True, timeout=300) as answer:
        for _, line in zip(range(2 * after), answer.iter_lines(), strict=False):
            assert not line or "output_ids" in json.loads(line.removeprefix(b"data: "))


def together(server: Server, asked: list[list[int]]) -> list[list[int]]:
    """The tokens of each prompt, all asked at once, with a quarter as many clients that leave."""
    draw = random.Random(0)
    order = draw.sample(range(len(asked)), len(asked))
    with ThreadPoolExecutor(len(asked) + len(asked) // 4) as pool:
        answers = {}
        left = []
        for place, index in enumerate(order):
            answers[index] = pool.submit(server.generate, asked[index], NEW, logprobs_from=-1)
            if place % 4 == 0:
                left.append(pool.submit(leave, server, asked[index], draw.randrange(1, 30)))
        for one in left:
            one.result()
        return [answers[index].result()["output_ids"] for index in range(len(asked))]


def require_empty(server: Server) -> None:
    """No request and no token is left once the prefix cache is emptied, and no check failed."""
    deadline = time.monotonic() + 20
    while (used := load(server))["num_running_reqs"] + used["num_waiting_reqs"]:
        assert time.monotonic() < deadline, used
        time.sleep(0.1)
    server.flush()
    used = load(server)
    assert used["num_used_tokens"] == 0 and used["token_usage"] == 0, used
    assert server.process.poll() is None
    assert "leak" not in server.log and "Traceback" not in server.log


def load(server: Server) -> dict[str, Any]:
    (only,) = requests.get(f"{server.url}/v1/loads", timeout=30).json()["loads"]
    return only


def test_every_stream_answers_as_alone(checkpoint, tmp_path):
    path, asked = checkpoint("dense"), prompts()
    reference = Reference(path)
    with serve("--model-path", str(path), *FLAGS, log_dir=tmp_path, env=CHECKED) as server:
        found = together(server, asked)
        assert "Retract requests" in server.log
        require_empty(server)
    for prompt, tokens in zip(asked, found, strict=True):
        table = reference.log_probs(prompt, tokens)
        assert table[len(prompt) - 1 : -1].argmax(-1).tolist() == tokens, len(prompt)
