# SPDX-License-Identifier: Apache-2.0
"""Real servers for tests: started as a user starts them, waited for, and taken down whole."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.processes import Server, free_port, started, wait_until_ready

# A start takes 20 to 60 s with compiled bytecode; a slow machine that has none took 240 s.
START_SECONDS = 900
OURS = ("-m", "sglang_gemma4_ext.launch_server")
STOCK = ("-m", "sglang.launch_server")


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
    ready: str | None = None,
    port: str | None = None,
) -> Iterator[Server]:
    """Start a server, yield it when it is ready, end its whole process group afterwards.

    ready: a text of the log; by default our last line or, of another command, SGLang's.
    """
    if ready is None:
        ready = "Ready: " if tuple(executable[1:3]) == OURS else "The server is fired up"
    port = port or str(free_port())
    given = {"port": port, "env": environment(**(env or {})), "cwd": log_dir}
    log_dir.mkdir(parents=True, exist_ok=True)
    with started((*executable, *flags), log_dir / f"server-{port}.log", **given) as server:
        wait_until_ready(server, START_SECONDS, ready)
        yield server


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
