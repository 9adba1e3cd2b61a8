# SPDX-License-Identifier: Apache-2.0
"""Start real servers as a user does, wait for them, and end all their processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import requests

from sglang_gemma4_ext import PREFIX

READY = "The server is fired up"
POLL_S = 0.3
# The most seconds of one answer in Triton's interpreter on a slow machine.
ANSWER_SECONDS = 1800


class ServerError(RuntimeError):
    """Report a server that did not start; the message is the last sentence of its log."""


@dataclass
class Server:
    """Hold a running server's address, log and process."""

    url: str
    log_file: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def logs(self, text: str, since: int = 0, within_s: float = 30) -> bool:
        """Tell whether the log has `text` after character `since`, now or within `within_s`.

        SGLang may write a line after the answer that the line is about.
        """
        deadline = time.monotonic() + within_s
        while text not in self.log[since:] and time.monotonic() < deadline:
            time.sleep(0.1)
        return text in self.log[since:]

    def generate(
        self, ids: Sequence[int], new_tokens: int, *, logprobs_from: int = 0, **sampling: Any
    ) -> dict[str, Any]:
        """Complete `ids`, with log-probabilities; greedy by default, ignoring eos.

        logprobs_from: the first prompt token with a log-probability; -1 for new tokens alone.
            Otherwise SGLang uses nothing from its radix cache.
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
        answer = requests.post(f"{self.url}/generate", json=body, timeout=ANSWER_SECONDS)
        answer.raise_for_status()
        return answer.json()

    def flush(self) -> None:
        """Empty the radix cache."""
        requests.post(f"{self.url}/flush_cache", timeout=180).raise_for_status()


def popen(
    command: Sequence[str], output: IO[bytes], *, env: Mapping[str, str], cwd: Path
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; both its streams go to `output`."""
    return subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd, start_new_session=True
    )


@contextlib.contextmanager
def started(
    command: Sequence[str],
    log_file: Path,
    *,
    port: str,
    env: Mapping[str, str],
    cwd: Path,
    start: Callable[..., subprocess.Popen[bytes]] = popen,
) -> Iterator[Server]:
    """Start a server's command, yield the server at once, and end its process group afterwards.

    start: what starts the process, with the arguments of `popen`
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as log:
        process = start([*command, "--port", port], log, env=env, cwd=cwd)
    try:
        yield Server(f"http://127.0.0.1:{port}", log_file, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=90)


def wait_until_ready(server: Server, seconds: float, ready: str = READY) -> None:
    """Wait for `ready` in the log. Raises ServerError on an early end, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready in server.log:
            return
        if server.process.poll() is not None:
            raise _failed(last_sentence(server.log), server)
        time.sleep(POLL_S)
    raise _failed(f"not ready after {seconds:.0f} s", server)


def _failed(sentence: str, server: Server) -> ServerError:
    error = ServerError(sentence)
    error.add_note(f"The log ends:\n{server.log[-3000:]}")
    return error


def last_sentence(log: str) -> str:
    """Return the sentence of a log that says why a server ended: our own or an exception's."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception|Exit)\b", line)]
    ours = [line for line in lines if line.startswith(PREFIX)]
    return (ours[-1:] or told[-1:] or lines[-1:] or ["it said nothing"])[0].split(". ")[0][:300]


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
