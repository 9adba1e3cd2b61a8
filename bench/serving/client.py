# SPDX-License-Identifier: Apache-2.0
"""Run sglang.bench_serving unchanged, as a user does, and read its own JSON line.

Prompts are random token ids of the served vocabulary, sent as ids. Therefore lengths are exact for
every tokenizer, and nothing is downloaded. The radix cache is emptied before each workload.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.serving.workloads import SEED, Workload

KEPT = (
    "completed", "duration", "total_input_tokens", "total_output_tokens", "output_throughput",
    "total_throughput", "mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "mean_tpot_ms",
    "median_tpot_ms", "p99_tpot_ms", "accept_length", "concurrency",
)  # fmt: skip


class ClientError(RuntimeError):
    """Report a workload that did not finish; the message is the client's last line."""


def command(url: str, tokenizer: str, workload: Workload, out: Path) -> list[str]:
    given = {
        "--backend": "sglang",
        "--base-url": url,
        "--tokenizer": tokenizer,
        "--dataset-name": "random-ids",
        "--random-input-len": workload.input_tokens,
        "--random-output-len": workload.output_tokens,
        "--random-range-ratio": 1.0,
        "--num-prompts": workload.prompts,
        "--warmup-requests": workload.warmup,
        "--seed": SEED,
        "--output-file": out,
    }
    if workload.concurrency is not None:
        given["--max-concurrency"] = workload.concurrency
    flags = [str(part) for pair in given.items() for part in pair]
    switches = ["--tokenize-prompt", "--flush-cache", "--disable-tqdm"]
    return [sys.executable, "-m", "sglang.bench_serving", *flags, *switches]


def run(url: str, tokenizer: str, workload: Workload, out: Path, most_s: float) -> dict[str, Any]:
    """Run one workload against a running server.

    Returns the figures of KEPT as the client wrote them, throughput in tokens/s.
    Raises ClientError if it fails, takes longer than most_s, or lost a request.
    """
    out.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            command(url, tokenizer, workload, out),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            timeout=most_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ClientError(f"not done after {most_s:.0f} s") from None
    if done.returncode or not out.is_file():
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        raise ClientError((lines or ["sglang.bench_serving said nothing"])[-1][:300])
    found = json.loads(out.read_text().splitlines()[-1])
    if found["completed"] != workload.prompts:
        raise ClientError(f"{found['completed']} of {workload.prompts} requests were answered")
    return {name: found.get(name) for name in KEPT}
