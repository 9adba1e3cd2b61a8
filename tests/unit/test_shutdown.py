# SPDX-License-Identifier: Apache-2.0
"""Check that a child's reason reaches the launcher's last line and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_gemma4_ext import run_folder, settings, shutdown


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(shutdown, "_started", False)
    run_folder.make_folder()
    return Path(settings.run_folder_path())


def test_the_first_reason_is_returned_once(folder):
    shutdown.record(ValueError("first"))
    shutdown.record(ValueError("second"))
    assert shutdown.take() == "first"
    assert shutdown.take() == ""
    run_folder.remove_folder()
    assert not folder.exists()
    shutdown.record(ValueError("too late"))
    assert shutdown.take() == "" and not folder.exists()


def test_after_the_start_old_reasons_are_dropped_and_the_wording_changes(folder):
    assert shutdown.verdict("x") == "the server did not start: x"
    shutdown.record(ValueError("of a start that succeeded all the same"))
    shutdown.started()
    assert shutdown.verdict("x") == "the server ended: x"
    assert shutdown.take() == ""


def test_without_a_launcher_no_reason_is_stored(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    shutdown.record(ValueError("x"))
    assert shutdown.take() == ""


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit("sglang-gemma4-ext: bad")])
def test_a_failed_scheduler_records_the_reason_and_still_fails(folder, error):
    def fail(scheduler):
        raise error

    with pytest.raises(type(error)) as raised:
        shutdown.around_scheduler_init(fail, object())
    assert raised.value is error
    assert shutdown.take() == "bad"


class Scheduler:
    """Stand in for SGLang's Scheduler; its event loop fails at the first request."""

    def run_event_loop(self):
        raise RuntimeError("out of shared memory")


def test_a_failure_at_the_first_request_is_recorded(folder):
    calls, scheduler = [], Scheduler()
    shutdown.around_scheduler_init(lambda *a, **k: calls.append((a, k)), scheduler, 1, two=2)
    assert calls == [((scheduler, 1), {"two": 2})] and not list(folder.iterdir())
    with pytest.raises(RuntimeError, match="out of shared memory"):
        scheduler.run_event_loop()
    assert shutdown.take() == "RuntimeError: out of shared memory"


class Ended(BaseException):
    """Stand in for the end of the process."""


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (-9, "", "its process b was killed by SIGKILL; the machine may be out of memory"),
        (-11, "", "its process b was killed by SIGSEGV"),
        (-40, "", "its process b was killed by signal 40"),
        (1, "", shutdown.UNKNOWN),
        (-9, "the reason", "the reason"),
    ],
)
def test_a_running_server_dumps_its_requests_and_says_which_child_died(
    folder, monkeypatch, code, reason, expected
):
    def end(sentence, status):
        raise Ended(sentence, status)

    monkeypatch.setattr(shutdown, "_end", end)
    monkeypatch.setattr(shutdown, "_started", True)
    alive = SimpleNamespace(is_alive=lambda: True, exitcode=None)
    dead = SimpleNamespace(is_alive=lambda: False, exitcode=code)
    watchdog = SimpleNamespace(_processes=[alive, dead], _names=["a", "b"])
    dumps = []
    manager = SimpleNamespace(
        _subprocess_watchdog=watchdog, dump_requests_before_crash=lambda: dumps.append(1)
    )
    if reason:
        shutdown.record(ValueError(reason))
    with pytest.raises(Ended) as ended:
        shutdown.in_place_of_running_sigquit(SimpleNamespace(tokenizer_manager=manager))
    assert ended.value.args == (f"the server ended: {expected}", 1)
    assert dumps == [1]


def test_a_manager_without_the_attribute_still_ends(monkeypatch, caplog):
    """Go on without it: a handler that raises would leave a server that does not answer."""

    def end(sentence, status):
        raise Ended(sentence)

    monkeypatch.setattr(shutdown, "_end", end)
    monkeypatch.setattr(shutdown, "_started", True)
    with pytest.raises(Ended, match=re.escape(shutdown.UNKNOWN)):
        shutdown.in_place_of_running_sigquit(SimpleNamespace(tokenizer_manager=object()))
    assert "the requests could not be dumped" in caplog.text


def test_before_ready_a_dead_child_means_that_the_server_did_not_start(monkeypatch):
    def end(sentence, status):
        raise Ended(sentence)

    monkeypatch.setattr(shutdown, "_end", end)
    monkeypatch.setattr(shutdown, "_started", False)
    with pytest.raises(Ended, match="did not start"):
        shutdown.in_place_of_running_sigquit(object(), signal.SIGQUIT, None)


def test_any_exception_becomes_one_sentence():
    assert shutdown.summarize(ValueError("a\nb")) == "a"
    assert shutdown.summarize(RuntimeError("\n a\nb")) == "RuntimeError: a"
    assert shutdown.summarize(SystemExit("sglang-gemma4-ext: a\n b")) == "a\n b"
    assert shutdown.summarize(OSError("invalid:\n  a\nb")) == "OSError: invalid: a"
    assert shutdown.summarize(KeyError("k")) == "KeyError: 'k'"
    try:
        assert not shutdown.PREFIX, ""
    except AssertionError as error:
        error.args = ()
        said = shutdown.summarize(error)
        assert said.startswith("AssertionError in test_any_exception_becomes_one_sentence (")
        assert "test_shutdown.py:" in said
    assert shutdown.summarize(RuntimeError()) == "RuntimeError"


SCRIPT = """
import os, signal, subprocess, sys, time
from sglang_gemma4_ext import run_folder, shutdown
shutdown.watch_signals()
run_folder.make_folder()
signal.signal(signal.SIGQUIT, shutdown.SigquitReport())
if "started" in sys.argv: shutdown.started()
if "reason" in sys.argv: shutdown.record(ValueError("the reason"))
grandchild = "import subprocess, sys; subprocess.run([sys.executable, '-uc', 'print(1); input()'])"
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
child = subprocess.Popen([sys.executable, "-u", "-c", grandchild], **pipes)
child.stdout.readline()
print("up", flush=True)
time.sleep(900)
"""


@pytest.mark.parametrize(
    ("number", "words", "status", "last"),
    [
        (signal.SIGQUIT, ["reason"], 1, "the server did not start: the reason"),
        (signal.SIGQUIT, [], 1, "the server did not start: a child process failed; its log"),
        (signal.SIGQUIT, ["started"], 1, "the server ended: a child process failed; its log"),
        (signal.SIGTERM, [], 143, "stopped before the server was ready"),
        (signal.SIGINT, [], 130, "stopped before the server was ready"),
    ],
)
def test_a_signal_ends_the_tree_with_a_sentence(home, number, words, status, last):
    env = {**os.environ, "TMPDIR": str(home.folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        cwd=home.folder,
    )
    assert process.stdout.readline() == "up\n"
    assert len(home.residents()) == 3
    began = time.monotonic()
    process.send_signal(number)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == status
    assert said.splitlines()[-1].startswith(shutdown.PREFIX + last)
    # The script sleeps for 900 s; a busy machine may take many seconds.
    assert time.monotonic() - began < 300
    assert home.is_deserted(within_s=60) and not list(home.folder.iterdir())


def test_a_signal_during_a_print_still_ends_the_process(monkeypatch, capfd):
    """Python refuses to flush a stream from a handler that interrupted its flush."""

    class Interrupted:
        def flush(self):
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    def leave(status):
        raise Ended(status)

    monkeypatch.setattr(shutdown, "end_children", lambda kinds: None)
    monkeypatch.setattr(run_folder, "remove_folder", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(sys, "stdout", Interrupted())
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(shutdown, "_started", False)
    with pytest.raises(Ended):
        shutdown._on_stop(signal.SIGTERM, None)
    assert capfd.readouterr().err.endswith("stopped before the server was ready\n")


def test_a_signal_to_a_running_server_is_a_keyboard_interrupt(monkeypatch):
    monkeypatch.setattr(shutdown, "_started", True)
    with pytest.raises(KeyboardInterrupt):
        shutdown._on_stop(signal.SIGTERM, None)


WATCHED = """
import multiprocessing, sys, time
from sglang.srt.utils.watchdog import SubprocessWatchdog
from sglang_gemma4_ext import run_folder, shutdown
if __name__ == "__main__":
    child = multiprocessing.Process(target=time.sleep, args=(60,))
    child.start()
    SubprocessWatchdog([child], ["child"], interval=0.01).start()
    shutdown.end_children()
    time.sleep(0.5)
    print("the last word", file=sys.stderr)
"""


def test_sglangs_watchdog_does_not_call_our_shutdown_a_crash():
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], capture_output=True, text=True, timeout=360, check=False
    )
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "the last word"
    assert "crashed" not in done.stderr
