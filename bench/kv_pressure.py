# SPDX-License-Identifier: Apache-2.0
"""Compare servers with the same few bytes of KV and the same load: stalls and recomputation.

    python -m bench.kv_pressure [--json FILE]

Long prompts arrive together on a CPU, in fp32, through SGLang's Triton attention in Triton's
interpreter. SGLang alone cannot serve there, so "stock" is the extension without its KV patches:
SGLang's own pools, split and admission. Both admit requests whose output may not fit, as eagerly as
SGLang's settings allow.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import re
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.checkpoints.tiny import build
from bench.checkpoints.tokenizer import prompt_ids
from bench.conditions import conditions
from bench.rows import as_line
from bench.servers import EXTENSION, Server, running

PROMPT, NEW, REQUESTS = 170, 24, 4
START_S = 900
# Full tokens of SGLang's split, which has 0.8 sliding tokens for each. Three prompts fit, but not
# what they generate. As one pool the same bytes hold all four requests to their end.
FULL_TOKENS = 560
KV_PATCHES = "swa_policy,memory_reserve,context_ceiling,shared_layers_without_kv"
SERVERS = {
    "stock": ("--gemma4-swa-policy", "upstream", "--gemma4-ext-disable", KV_PATCHES),
    "ours": ("--gemma4-swa-policy", "auto"),
}
FLAGS = (
    "--gemma4-cpu-attention", "triton", "--triton-attention-num-kv-splits", "2",
    "--dtype", "float32", "--max-total-tokens", str(FULL_TOKENS), "--chunked-prefill-size", "64",
    "--max-running-requests", str(REQUESTS),
    "--schedule-conservativeness", "0.1", "--decode-log-interval", "1",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Hold what a server's log says of one load, and the generated tokens.

    most_running: most requests in one decode step; waiting: most queued meanwhile
    retracted: times that a running request lost its KV and was queued again
    prefilled: prompt tokens computed; tokens above the prompts' own were computed again
    """

    most_running: int
    waiting: int
    retracted: int
    prefilled: int
    cached: int
    seconds: float
    tokens: list[list[int]]


def load(server: Server) -> Outcome:
    """Send REQUESTS prompts at once, and wait for all."""
    prompts = [prompt_ids(PROMPT, seed=seed) for seed in range(10, 10 + REQUESTS)]
    before, began = len(server.log), time.monotonic()

    def ask(prompt: list[int]) -> list[int]:
        # SGLang reserves the whole output of a request that ignores eos, and never retracts it.
        return server.generate(prompt, NEW, logprobs_from=-1, ignore_eos=False)["output_ids"]

    with concurrent.futures.ThreadPoolExecutor(REQUESTS) as pool:
        tokens = list(pool.map(ask, prompts))
    seconds, log = time.monotonic() - began, server.log[before:]
    decode = re.findall(r"Decode batch, #running-req: (\d+).*#queue-req: (\d+)", log)
    return Outcome(
        most_running=max(int(running) for running, _ in decode),
        waiting=max(int(queued) for _, queued in decode),
        retracted=sum(int(n) for n in re.findall(r"#retracted_reqs: (\d+)", log)),
        prefilled=sum(int(n) for n in re.findall(r"#new-token: (\d+)", log)),
        cached=sum(int(n) for n in re.findall(r"#cached-token: (\d+)", log)),
        seconds=round(seconds, 1),
        tokens=tokens,
    )


def run(path: Path, folder: Path, name: str) -> Outcome:
    """Run the load on one of SERVERS; its log is left in folder."""
    flags = ("--model-path", str(path), *FLAGS, *SERVERS[name])
    with running(EXTENSION, flags, folder / name, start_s=START_S) as server:
        return load(server)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="append a row per server to this file")
    args = parser.parse_args()
    where = conditions("python -m bench.kv_pressure --json FILE")
    with tempfile.TemporaryDirectory() as folder:
        path = build("dense", Path(folder) / "dense")
        for name in SERVERS:
            outcome = run(path, Path(folder), name)
            print(name, outcome)
            if args.json:
                row = {"server": name, "requests": REQUESTS, "prompt": PROMPT, "new": NEW,
                       "flags": " ".join((*FLAGS, *SERVERS[name]))}  # fmt: skip
                with args.json.open("a") as file:
                    file.write(as_line(row | asdict(outcome) | where) + "\n")


if __name__ == "__main__":
    main()
