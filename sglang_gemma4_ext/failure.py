# SPDX-License-Identifier: Apache-2.0
"""One sentence about why a server did not start, carried from the process that knows it.

SGLang's scheduler logs a traceback and sends SIGQUIT to its parent, which kills itself. The
scheduler leaves its reason in a file that the launcher named, and the launcher's handler, which
SGLang lets its caller set for the launch phase, says it last.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglang_gemma4_ext import settings

SCHEDULER_INIT = "sglang.srt.managers.scheduler.Scheduler.__init__"
PREFIX = "sglang-gemma4-ext: "


def prepare() -> None:
    """Name the file, in the environment that the children inherit. Called by the launcher."""
    handle, path = tempfile.mkstemp(prefix="gemma4-ext-", suffix=".reason")
    os.close(handle)
    settings.set_failure_file(path)


def record(error: BaseException) -> None:
    """Keep the first reason given; without a launcher there is nowhere to keep it."""
    path = settings.failure_file()
    if path is None or Path(path).stat().st_size:
        return
    with contextlib.suppress(OSError):
        Path(path).write_text(summarize(error))


def take() -> str:
    """The recorded reason, if any; the file is removed."""
    path = settings.failure_file()
    if path is None:
        return ""
    try:
        reason = Path(path).read_text()
        Path(path).unlink()
    except OSError:
        return ""
    return reason


def summarize(error: BaseException) -> str:
    """An exception as one sentence: its message if it has one, else its type."""
    message = str(error).strip()
    if isinstance(error, SystemExit):
        return message.removeprefix(PREFIX)
    lines = message.splitlines()
    if not lines:
        return type(error).__name__
    return lines[0] if isinstance(error, ValueError) else f"{type(error).__name__}: {lines[0]}"


def around_scheduler_init(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """AROUND Scheduler.__init__: record why it failed, then fail as before."""
    try:
        original(*args, **kwargs)
    except (Exception, SystemExit) as error:
        record(error)
        raise


class SigquitReport:
    """Launch-phase SIGQUIT handler: say why a child failed, then end the process tree."""

    def __call__(self, signum: int, frame: Any) -> None:
        from sglang.srt.utils import kill_process_tree

        reason = take() or "a child process failed; its log lines above say why"
        print(f"{PREFIX}the server did not start: {reason}", file=sys.stderr, flush=True)
        kill_process_tree(os.getpid(), include_parent=False)
        os._exit(1)

    def __repr__(self) -> str:
        return "sglang-gemma4-ext says why a start failed"
