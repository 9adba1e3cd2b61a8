# SPDX-License-Identifier: Apache-2.0
"""Check that a command whose reader has gone ends without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "command",
    [
        ("sglang_gemma4_ext.plan", "--help"),
        ("sglang_gemma4_ext.plan", "--model-path", "31b", "--memory", "24GiB"),
        ("sglang_gemma4_ext.doctor", "--help"),
        ("sglang_gemma4_ext.digests", "--help"),
        ("sglang_gemma4_ext.launch_server", "--help"),
    ],
    ids=lambda command: " ".join(command),
)
def test_a_closed_pipe(command) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command],
        stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=env,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
