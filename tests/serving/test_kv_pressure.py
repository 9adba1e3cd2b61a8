# SPDX-License-Identifier: Apache-2.0
"""Stock and ours with the same few bytes of KV and the same load: who stalls, who computes twice.

Long prompts come in together on a server whose pools hold a few of them. Both servers are given
the same bytes; SGLang's fixed split wastes its sliding pool on them, the shared pool does not.
"""

from __future__ import annotations

import concurrent.futures
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serving.harness import Server, serve
from tests.serving.parity import prompt_ids

pytestmark = [pytest.mark.server, pytest.mark.slow]

PROMPT, NEW, REQUESTS = 170, 32, 6
# Full tokens of SGLang's split, which keeps 0.8 sliding tokens for each: three prompts fit, what
# they generate does not.
FULL_TOKENS = 560
FLAGS = (
    "--gemma4-cpu-attention", "triton", "--triton-attention-num-kv-splits", "2",
    "--dtype", "float32", "--max-total-tokens", str(FULL_TOKENS), "--chunked-prefill-size", "64",
    "--max-running-requests", str(REQUESTS),
    # As eager as SGLang can be told to be: it admits requests whose output may not fit.
    "--schedule-conservativeness", "0.1", "--decode-log-interval", "1",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a log says of one load, and the tokens that came of it."""

    tokens: list[list[int]]
    most_running: int
    retracted: int
    prefilled: int


def load(server: Server) -> Outcome:
    prompts = [prompt_ids(PROMPT, seed=seed) for seed in range(10, 10 + REQUESTS)]
    before = len(server.log)

    def ask(prompt: list[int]) -> list[int]:
        return server.generate(prompt, NEW, logprobs_from=-1, ignore_eos=False)["output_ids"]

    with concurrent.futures.ThreadPoolExecutor(REQUESTS) as pool:
        tokens = list(pool.map(ask, prompts))
    log = server.log[before:]
    running = [int(n) for n in re.findall(r"#running-req: (\d+)", log)]
    retracted = [int(n) for n in re.findall(r"#retracted_reqs: (\d+)", log)]
    prefilled = [int(n) for n in re.findall(r"#new-token: (\d+)", log)]
    return Outcome(tokens, max(running, default=0), sum(retracted), sum(prefilled))


def run(path: Path, folder: Path, policy: str) -> Outcome:
    flags = ("--model-path", str(path), *FLAGS, "--gemma4-swa-policy", policy)
    with serve(*flags, log_dir=folder / policy) as server:
        return load(server)


def test_the_shared_pool_runs_more_at_once_and_computes_nothing_twice(checkpoint, tmp_path):
    path = checkpoint("dense")
    stock, ours = (run(path, tmp_path, policy) for policy in ("upstream", "auto"))
    print(stock, ours, sep="\n")
    assert ours.tokens == stock.tokens
    assert ours.most_running > stock.most_running
    assert ours.retracted <= stock.retracted
    assert ours.prefilled <= stock.prefilled
