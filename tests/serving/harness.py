# SPDX-License-Identifier: Apache-2.0
"""Real servers for tests: started as a user starts them, waited for, and taken down whole."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

START_SECONDS = 240
OURS = ("-m", "sglang_gemma4_ext.launch_server")
STOCK = ("-m", "sglang.launch_server")


@dataclass
class Server:
    """A running server: its address, its log and its process."""

    url: str
    log_file: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def logs(self, text: str, since: int = 0, within_s: float = 10) -> bool:
        """Whether `text` is in the log behind character `since`, or is soon.

        A line may be written after the answer that it is about.
        """
        deadline = time.monotonic() + within_s
        while text not in self.log[since:] and time.monotonic() < deadline:
            time.sleep(0.1)
        return text in self.log[since:]

    def generate(
        self, ids: Sequence[int], new_tokens: int, *, logprobs_from: int = 0, **sampling: Any
    ) -> dict[str, Any]:
        """Greedy by default, ignoring eos, with log-probabilities.

        logprobs_from: the first prompt token to have one; -1 for the new tokens alone, without
            which SGLang takes nothing from its radix cache.
        """
        body = {
            "input_ids": list(ids),
            "sampling_params": {
                "temperature": 0,
                "max_new_tokens": new_tokens,
                "ignore_eos": True,
                **sampling,
            },
            "return_logprob": True,
            "logprob_start_len": logprobs_from,
        }
        answer = requests.post(f"{self.url}/generate", json=body, timeout=600)
        answer.raise_for_status()
        return answer.json()

    def flush(self) -> None:
        """Empty the radix cache."""
        requests.post(f"{self.url}/flush_cache", timeout=60).raise_for_status()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, without what a surrounding server would have left in it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SGLANG_", "TRITON_"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **extra}


@contextlib.contextmanager
def serve(
    *flags: str,
    log_dir: Path,
    executable: Sequence[str] = (sys.executable, *OURS),
    env: Mapping[str, str] | None = None,
    ready: str = "The server is fired up",
    port: str | None = None,
) -> Iterator[Server]:
    """Start a server, yield it when it is ready, end its whole process group afterwards."""
    port = port or str(free_port())
    log_dir.mkdir(parents=True, exist_ok=True)
    log_file = log_dir / f"server-{port}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*executable, *flags, "--port", port],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(**(env or {})),
            cwd=log_dir,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", log_file, process)
    try:
        _wait(server, ready)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def _wait(server: Server, ready: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if ready in server.log:
            return
        if server.process.poll() is not None:
            raise RuntimeError(f"server ended early:\n{server.log[-3000:]}")
        time.sleep(0.3)
    raise TimeoutError(f"server not ready in {START_SECONDS} s:\n{server.log[-3000:]}")


def run_to_end(
    *flags: str,
    module: Sequence[str] = OURS,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = START_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run a command that is expected to end by itself; stdout and stderr are one text."""
    return subprocess.run(
        [sys.executable, *module, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**(env or {})),
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
