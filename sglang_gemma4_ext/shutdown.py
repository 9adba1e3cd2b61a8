# SPDX-License-Identifier: Apache-2.0
"""End a failed server with nothing left behind and one sentence as the last line.

SGLang's scheduler logs a traceback and sends SIGQUIT to its parent, whose handler kills the server
without a sentence. Here the scheduler writes its reason to a folder that all processes of the
server share. The launcher's handlers print that reason last and remove what is left. One handler
serves the launch phase, where SGLang lets its caller set it, another the time after.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sglang_gemma4_ext import PREFIX, run_folder, settings

WATCHDOG = "sglang.srt.utils.watchdog"
UNKNOWN = "a child process failed; its log lines above say why"
REAP_SECONDS = 10

_started = False


def watch_signals() -> None:
    """Answer SIGINT and SIGTERM with a sentence, from the launcher's start on."""
    import psutil  # noqa: F401  (a signal handler must not import a module for the first time)

    signal.signal(signal.SIGINT, _on_stop)
    signal.signal(signal.SIGTERM, _on_stop)


def started() -> None:
    """Record that the server answers requests, so that its start can no longer fail."""
    global _started
    _started = True
    take()


def record(error: BaseException) -> None:
    """Store the first reason given; without a launcher do nothing."""
    path = _reason()
    if path is None:
        return
    with contextlib.suppress(OSError), path.open("x") as file:
        file.write(summarize(error))


def take() -> str:
    """Return the recorded reason, or an empty string, and forget it."""
    path = _reason()
    if path is None:
        return ""
    try:
        reason = path.read_text()
        path.unlink()
    except OSError:
        return ""
    return reason


def _reason() -> Path | None:
    folder = settings.run_folder_path()
    return None if folder is None else Path(folder) / "reason"


def summarize(error: BaseException) -> str:
    """Summarize an exception in one sentence: its message, or else its type and place."""
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
    """Return the last sentence of a server that ended by itself."""
    return f"the server {'ended' if _started else 'did not start'}: {reason}"


def around_scheduler_init(
    original: Callable[..., None], scheduler: Any, *args: Any, **kwargs: Any
) -> None:
    """Record why Scheduler.__init__ or the first request failed, then fail as before (AROUND)."""
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


def in_place_of_running_sigquit(handler: Any, *args: Any) -> NoReturn:
    """Replace SGLang's handler for the running phase, which it sets before the warm-up."""
    if not _started:
        SigquitReport()(*args)
    manager = handler.tokenizer_manager
    try:
        manager.dump_requests_before_crash()  # --crash-dump-folder
    # Catch everything: a handler that raises would leave a server that does not answer.
    except Exception:
        logging.getLogger(__name__).exception("the requests could not be dumped")
    _end(verdict(take() or _death(getattr(manager, "_subprocess_watchdog", None))), 1)


def _death(watchdog: Any) -> str:
    """Name the dead child that SGLang's watchdog knows, and its cause of death."""
    known = (getattr(watchdog, name, ()) for name in ("_processes", "_names"))
    for child, name in zip(*known, strict=False):
        if not child.is_alive() and child.exitcode < 0:
            names = {number.value: number.name for number in signal.Signals}
            killer = names.get(-child.exitcode, f"signal {-child.exitcode}")
            memory = "; the machine may be out of memory" if killer == "SIGKILL" else ""
            return f"its process {name} was killed by {killer}{memory}"
    return UNKNOWN


def end_children(kinds: tuple[str, ...] = run_folder.SEGMENTS) -> None:
    """Kill every descendant of this process, wait until they are gone, and remove their memory.

    kinds: kinds of shared memory. An ordinary exit removes this process's semaphores by itself.
    """
    import psutil

    # SGLang's watchdog would report each death as a crash, and send us a SIGQUIT.
    logging.getLogger(WATCHDOG).disabled = True
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    children = psutil.Process().children(recursive=True)
    pids = [os.getpid(), *(child.pid for child in children)]
    shared = run_folder.shared_memory(pids, kinds)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    deadline = time.monotonic() + REAP_SECONDS
    while any(map(_is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    run_folder.remove(shared)


def _is_alive(process: Any) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(sentence: str, status: int) -> NoReturn:
    """End the process tree from within a signal handler, with `sentence` as the last line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_children(run_folder.SEGMENTS + run_folder.SEMAPHORES)
    run_folder.remove_folder()
    # The signal may have interrupted a print, during which neither flush nor print can be called.
    with contextlib.suppress(RuntimeError):
        sys.stdout.flush()
    os.write(2, f"{PREFIX}{sentence}\n".encode())
    os._exit(status)


def _on_stop(signum: int, frame: Any) -> None:
    """Handle SIGINT and SIGTERM; during SGLang's import an exception might be swallowed."""
    if _started:
        raise KeyboardInterrupt
    _end("stopped before the server was ready", 128 + signum)


class SigquitReport:
    """Handle SIGQUIT in the launch phase: say why a child failed, then end the process tree."""

    def __call__(self, *args: Any) -> NoReturn:
        _end(verdict(take() or UNKNOWN), 1)

    def __repr__(self) -> str:
        return "sglang-gemma4-ext says why a start failed"
