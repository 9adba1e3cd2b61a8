# SPDX-License-Identifier: Apache-2.0
"""Soak the demo, with its assistant's drafts, under a mixed load for a quarter of an hour.

    python -m bench.soak [--minutes 15] [--json bench/results/soak_cpu.jsonl]

The status is 1, with the reason, in four cases:
- a process grew by more than 2 % after the first third
- a request got a wrong answer
- the log has an error
- a pool is not empty at the end

The row is appended in every case. Latencies are of this machine under its other load.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from bench.conditions import conditions, without_folders
from bench.rows import as_line
from bench.servers import EXTENSION, Server, running
from bench.soak import load, memory
from sglang_gemma4_ext import demo

MOST_GROWTH = 0.02
EVERY_S = 5.0
FLAGS = (
    "--demo", "--dtype", "float32", "--max-total-tokens", "4096", "--max-running-requests", "16",
    "--chunked-prefill-size", "128",
)  # fmt: skip
ERRORS = re.compile(r"^.*(?:Traceback|\b[Ee]xception\b|[Ll]eak detected).*$", re.MULTILINE)


def measure(server: Server, minutes: float, clients: int) -> dict[str, Any]:
    """Return the row, without its conditions."""
    seconds = 60 * minutes
    done, began = threading.Event(), time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(memory.watch, server.process.pid, EVERY_S, done)
        try:
            tally = load.run(server.url, clients, began + seconds)
        finally:
            done.set()
        samples = watched.result()
    return {
        "minutes": minutes,
        "clients": clients,
        "requests": sum(map(len, tally.whole_s.values())),
        "latency": tally.percentiles(),
        "wrong_answers": tally.errors,
        "memory": samples.growth(seconds / 3),
        "log_errors": [line[:300] for line in ERRORS.findall(server.log)],
        "tokens_left": tokens_left(server),
        "accept_length": accept_length(server.log),
    }


def tokens_left(server: Server) -> int:
    """Return the KV tokens in use after all requests ended and the radix cache was emptied."""
    deadline = time.monotonic() + 30
    while sum((now := _load(server))[f"num_{kind}_reqs"] for kind in ("running", "waiting")):
        if time.monotonic() > deadline:
            return now["num_used_tokens"]
        time.sleep(0.2)
    requests.post(f"{server.url}/flush_cache", timeout=60).raise_for_status()
    return _load(server)["num_used_tokens"]


def _load(server: Server) -> dict[str, Any]:
    (only,) = requests.get(f"{server.url}/v1/loads", timeout=60).json()["loads"]
    return only


def accept_length(log: str) -> float | None:
    """Return the mean tokens per verification in the log's decode batches."""
    found = [float(text) for text in re.findall(r"accept len: ([\d.]+)", log)]
    return round(sum(found) / len(found), 2) if found else None


def faults(row: dict[str, Any]) -> list[str]:
    """List the reasons why a row did not pass, in sentences; empty if it passed."""
    memory_of = [(f"{n}'s {k} memory", g) for n, of in row["memory"].items() for k, g in of.items()]
    return [
        *(f"{name} was not there throughout" for name, g in memory_of if g is None),
        *(
            f"{name} grew by {g['growth']:.1%}"
            for name, g in memory_of
            if g is not None and g["growth"] > MOST_GROWTH
        ),
        *(f"a wrong answer: {text}" for text in row["wrong_answers"][:5]),
        *(f"in the log: {text}" for text in row["log_errors"][:5]),
        *([f"{row['tokens_left']} KV tokens are still in use"] if row["tokens_left"] else []),
        *(["no request was answered"] if not row["requests"] else []),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, default=15, help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, help="append the row to this file")
    parser.add_argument("--logs", type=Path, help="folder for the server's log")
    args = parser.parse_args()
    flags = (*FLAGS, "--speculative-draft-model-path", str(demo.assistant_path()))
    command = f"python -m bench.soak --minutes {args.minutes:g} --clients {args.clients}"
    where = without_folders({"flags": " ".join(flags), **conditions(command)})
    with (
        tempfile.TemporaryDirectory() as folder,
        running(EXTENSION, flags, args.logs or Path(folder), start_s=300) as server,
    ):
        row = measure(server, args.minutes, args.clients) | where
    print(json.dumps(row, indent=2))
    if args.json:
        with args.json.open("a") as file:
            file.write(as_line(row) + "\n")
    said = faults(row)
    print(*said, sep="\n", file=sys.stderr)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
