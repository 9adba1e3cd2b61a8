# SPDX-License-Identifier: Apache-2.0
"""How a start ends that does not succeed: nothing left behind, and one sentence as the last line.

SGLang's scheduler logs a traceback and sends SIGQUIT to its parent, which kills itself. The
scheduler leaves its reason in a file that the launcher named, and the launcher's handler, which
SGLang lets its caller set for the launch phase, says it last. Once the server is ready, SGLang's
own handler answers.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sglang_gemma4_ext import settings

SCHEDULER_INIT = "sglang.srt.managers.scheduler.Scheduler.__init__"
RUNNING_SIGQUIT = (
    "sglang.srt.managers.tokenizer_manager.SignalHandler.running_phase_sigquit_handler"
)
WATCHDOG = "sglang.srt.utils.watchdog"
PREFIX = "sglang-gemma4-ext: "
REAP_SECONDS = 10

_started = False


def watch_signals() -> None:
    """Answer SIGINT and SIGTERM with a sentence, from the launcher's first moment on."""
    import psutil  # noqa: F401  (a signal handler is no place for a first import)

    signal.signal(signal.SIGINT, _on_stop)
    signal.signal(signal.SIGTERM, _on_stop)


def watch_children() -> None:
    """Name the file for a reason, in the environment that the children inherit."""
    handle, path = tempfile.mkstemp(prefix="gemma4-ext-", suffix=".reason")
    os.close(handle)
    settings.set_failure_file(path)


def started() -> None:
    """The server answers requests: its start can no longer fail."""
    global _started
    _started = True
    take()


def record(error: BaseException) -> None:
    """Keep the first reason given; without a launcher there is nowhere to keep it."""
    path = settings.failure_file()
    if path is None:
        return
    with contextlib.suppress(OSError):
        if not Path(path).stat().st_size:
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
    """An exception as one sentence: its message if it has one, else its type and place."""
    message = str(error).strip()
    if isinstance(error, SystemExit):
        return message.removeprefix(PREFIX)
    name = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if message:
        line, *more = message.splitlines()
        if line.endswith(":") and more:
            line = f"{line} {more[0].strip()}"
        sentence = line if isinstance(error, ValueError) else f"{name}: {line}"
    elif frames:
        sentence = f"{name} in {frames[-1].name} ({frames[-1].filename}:{frames[-1].lineno})"
    else:
        sentence = name
    if any(Path(frame.filename).name.startswith("tokenization_") for frame in frames):
        return f"the tokenizer cannot be loaded, download its files again ({sentence})"
    return sentence


def verdict(reason: str) -> str:
    """The last sentence of a server that ended by itself."""
    return f"the server {'ended' if _started else 'did not start'}: {reason}"


def around_scheduler_init(
    original: Callable[..., None], scheduler: Any, *args: Any, **kwargs: Any
) -> None:
    """AROUND Scheduler.__init__: record why it or the first request failed, then fail as before."""
    _recording(original)(scheduler, *args, **kwargs)
    scheduler.run_event_loop = _recording(scheduler.run_event_loop)


def _recording(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (Exception, SystemExit) as error:
            record(error)
            raise

    return recorded


def around_running_sigquit(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """AROUND SGLang's handler for the running phase, which it sets before the warm-up."""
    if _started:
        original(*args, **kwargs)
    else:
        SigquitReport()(*args)


def end_children() -> None:
    """Kill every descendant of this process and wait until they are gone."""
    import psutil

    # SGLang's watchdog would report each death as a crash, and answer it with a SIGQUIT to us.
    logging.getLogger(WATCHDOG).disabled = True
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    deadline = time.monotonic() + REAP_SECONDS
    while any(map(_is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _is_alive(process: Any) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(sentence: str, status: int) -> NoReturn:
    """End the process tree from within a signal handler, `sentence` being the last line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_children()
    sys.stdout.flush()
    # Not print: the signal may have come in the midst of one.
    os.write(2, f"{PREFIX}{sentence}\n".encode())
    os._exit(status)


def _on_stop(signum: int, frame: Any) -> None:
    """SIGINT and SIGTERM. While SGLang is being imported an exception might be swallowed."""
    if _started:
        raise KeyboardInterrupt
    take()
    _end("stopped before the server was ready", 128 + signum)


class SigquitReport:
    """Launch-phase SIGQUIT handler: say why a child failed, then end the process tree."""

    def __call__(self, *args: Any) -> NoReturn:
        reason = take() or "a child process failed; its log lines above say why"
        _end(verdict(reason), 1)

    def __repr__(self) -> str:
        return "sglang-gemma4-ext says why a start failed"
