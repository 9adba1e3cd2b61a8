# SPDX-License-Identifier: Apache-2.0
"""Start real servers for tests as a user does, wait for them, and end all their processes."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from bench.processes import Server, free_port, popen, started, wait_until_ready
from tests.serving.warm import Zygote

# A start takes 20 to 60 s with compiled bytecode. A slow machine without it took 240 s.
START_SECONDS = 900
OURS = ("-m", "sglang_gemma4_ext.launch_server")
STOCK = ("-m", "sglang.launch_server")


def environment(**extra: str) -> dict[str, str]:
    """Copy this process's environment, without variables of a surrounding server."""
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
    """Start a server, yield it when ready, and end its process group afterwards.

    ready: a text of the log; by default our last line, or SGLang's for another command.
    """
    if ready is None:
        ready = "Ready: " if tuple(executable[1:3]) == OURS else "The server is fired up"
    port = port or str(free_port())
    given = {"port": port, "env": environment(**(env or {})), "cwd": log_dir, "start": start}
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
    """Run a command that ends by itself; stdout and stderr are joined."""
    command = [sys.executable, *module, *flags]
    with tempfile.TemporaryFile() as output:
        process = start(command, output, env=environment(**(env or {})), cwd=cwd or Path.cwd())
        try:
            code = process.wait(timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        said = output.read().decode(errors="replace")
    return subprocess.CompletedProcess(command, code, said, None)


def start(
    command: Sequence[str], output: IO[bytes], *, env: Mapping[str, str], cwd: Path
) -> subprocess.Popen[bytes]:
    """Start a command as bench.processes.popen does, but a Python module by the zygote.

    TEST_COLD=1 starts every process as a user does, with a new interpreter.
    """
    is_module = tuple(command[:2]) == (sys.executable, "-m")
    if is_module and not os.environ.get("TEST_COLD"):
        module, *arguments = command[2:]
        where = {"env": env, "cwd": str(cwd), "output": output.fileno()}
        if process := zygote().start(module, arguments, **where):
            return process
    return popen(command, output, env=env, cwd=cwd)


@functools.cache
def zygote() -> Zygote:
    """Return this test process's zygote; the first call takes some 20 s."""
    return Zygote(environment())
