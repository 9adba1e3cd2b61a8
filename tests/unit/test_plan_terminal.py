# SPDX-License-Identifier: Apache-2.0
"""Check that a terminal gets colours and bars, and a pipe plain text with the same content."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "sglang_gemma4_ext.plan", "--model-path", "31B", "--weights"]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(*argv: str) -> str:
    """Return what the command writes to a terminal of 160 columns."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": "160", "TERM": "xterm-256color"}
    with subprocess.Popen([*COMMAND, *argv], stdout=theirs, env=env) as process:
        os.close(theirs)
        found = b""
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            found += part
        process.wait()
    os.close(ours)
    return found.decode()


@pytest.mark.parametrize("argv", [("nvfp4", "--gpu", "l4"), ("bf16", "--gpu", "l4")], ids=" ".join)
def test_a_terminal_gets_colours_and_a_pipe_does_not(argv):
    shown = on_a_terminal(*argv)
    piped = subprocess.run([*COMMAND, *argv], capture_output=True, text=True, check=False).stdout
    assert "\x1b[" in shown and "\u2588" in shown
    assert "\x1b[" not in piped and "\u2588" not in piped
    # The same words and numbers, whatever the columns and bars.
    words = [re.findall(r"[\w.,+-]*\w", ESCAPE.sub("", text)) for text in (shown, piped)]
    assert sorted(words[0]) == sorted(words[1])
