# SPDX-License-Identifier: Apache-2.0
"""Test the launcher as a user sees it: help, summary, printed request, and how a server ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import Home
from tests.serving.harness import STOCK, Server, environment, free_port, run_to_end, serve

READY = "Ready: "
STOPPED = "sglang-gemma4-ext: stopped"


def test_help_shows_our_flags_and_sglangs():
    done = run_to_end("--help")
    assert done.returncode == 0
    flags = ("--gemma4-ext-disable", "--gemma4-weights", "--gemma4-cpu-attention", "--demo")
    for flag in (*flags, "--model-path", "--mem-fraction-static", "--tp-size"):
        assert flag in done.stdout
    assert done.stdout.index("--gemma4-weights") < done.stdout.index("Flags of SGLang")


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory) -> Iterator[Server]:
    """Start it with only a model's path and one patch disabled; Ctrl-C ends it."""
    flags = ("--model-path", str(checkpoint("dense")))
    disable = ("--gemma4-ext-disable", "exact_sliding_window")
    log_dir = tmp_path_factory.mktemp("launcher")
    env = {"CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(log_dir)}
    with serve(*flags, *disable, log_dir=log_dir, env=env, ready=READY) as running:
        yield running


@pytest.mark.server
def test_the_summary_names_model_machine_and_settings(server, checkpoint):
    path = re.escape(str(checkpoint("dense")))
    for line in (
        r"sglang-gemma4-ext [\d.]+ on SGLang [\d.]+",
        rf"  model      {path}: Gemma4ForConditionalGeneration, dense, text-only \(--en.*",
        r"  device     CPU, for no CUDA device was found.*; attention in PyTorch",
        r"             KV pools of 65,536 tokens",
        r"  patches    .*text_only, .*cpu_torch_attention.*",
        r"  not needed .*causal_lm_config.*",
        r"  left out   exact_sliding_window: .*--gemma4-ext-disable.*",
    ):
        assert re.search(rf"^{line}$", server.log, re.MULTILINE), line
    assert "Applied " not in server.log and "server_args=" not in server.log
    assert server.log.index("The server is fired up") < server.log.index("  model      ")
    applied = re.search(r"^  patches    (.*)$", server.log, re.MULTILINE)[1].split(", ")
    assert "exact_sliding_window" not in applied


@pytest.mark.server
def test_the_printed_request_works_unchanged(server):
    said = server.log[server.log.index(READY) :]
    assert said.startswith(f"{READY}{server.url}  (OpenAI API at {server.url}/v1)")
    command = re.search(r"^  curl (?:.*\\\n)*.*$", said, re.MULTILINE)[0]
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True, timeout=180
    )
    answer = json.loads(done.stdout)
    # Sampled, as for a user, so its length is random.
    assert 0 < answer["usage"]["completion_tokens"] <= 64
    assert answer["choices"][0]["message"]["content"]


@pytest.mark.server
def test_ctrl_c_ends_all_processes(server):
    processes = Home(server.log_file.parent)
    assert len(processes.residents()) >= 3
    os.killpg(server.process.pid, signal.SIGINT)  # the terminal signals the whole group
    assert server.process.wait(timeout=90) == 0
    assert server.log.rstrip().splitlines()[-1] == STOPPED
    assert processes.is_deserted()
    assert left_behind(server) == []


@pytest.mark.server
def test_sigterm_ends_all_processes(checkpoint, home):
    flags = ("--model-path", str(checkpoint("dense")))
    with serve(*flags, log_dir=home.folder, ready=READY) as server:
        assert len(home.residents()) >= 3
        server.process.terminate()
        assert server.process.wait(timeout=180) == 0
        assert server.log.rstrip().splitlines()[-1] == STOPPED
        assert home.is_deserted()


@pytest.mark.server
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_start_can_be_interrupted(checkpoint, home, number):
    """Send SIGINT while SGLang is imported, and SIGTERM when its processes exist."""
    flags = ("--model-path", str(checkpoint("dense")), "--port", str(free_port()))
    log_file = home.folder / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sglang_gemma4_ext.launch_server", *flags],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(TMPDIR=str(home.folder)),
            start_new_session=True,
            cwd=home.folder,
        )
    processes = 1 if number == signal.SIGINT else 3
    deadline = time.monotonic() + 120
    while "starting SGLang" not in log_file.read_text() or len(home.residents()) < processes:
        assert process.poll() is None and time.monotonic() < deadline, log_file.read_text()
        time.sleep(0.1)
    time.sleep(1)
    os.killpg(process.pid, number)
    assert process.wait(timeout=90) == 128 + number
    last = log_file.read_text().rstrip().splitlines()[-1]
    assert last == "sglang-gemma4-ext: stopped before the server was ready"
    assert home.is_deserted()
    assert not list(home.folder.glob("gemma4-ext-*"))


def left_behind(server: Server) -> list[str]:
    """List our folder, and files and sockets beside the server's log, in its temporary folder.

    Empty directories and caches of imported libraries also lie there; they are left out.
    """
    there = server.log_file.parent.iterdir()
    return [
        path.name
        for path in there
        if path.name.startswith("gemma4-ext-") or not (path.is_dir() or path.suffix == ".log")
    ]


@pytest.mark.server
@pytest.mark.parametrize("starts", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_scheduler_killed_while_it_decodes_ends_the_server(checkpoint, home, starts):
    """Require one sentence and no leftovers, and a second start on the same port."""
    flags = ("--model-path", str(checkpoint("dense")))
    env = {"TMPDIR": str(home.folder)}
    port, answers = str(free_port()), []
    for _ in range(starts):
        with serve(*flags, log_dir=home.folder, env=env, ready=READY, port=port) as server:
            answers.append(server.generate(range(40, 60), 16)["output_ids"])
            shared = shared_memory(home)
            assert {path.name[:12] for path in shared} >= {"sglang_loads"}
            kill_the_scheduler(server, home)
        assert left_behind(server) == []
        assert not [path for path in shared if path.exists()]
    assert answers == answers[:1] * starts


def shared_memory(home: Home) -> list[Path]:
    """List the files under /dev/shm that the server's processes have open or mapped."""
    every = home.residents()
    paths = {found.path for process in every for found in process.memory_maps()}
    paths |= {found.path for process in every for found in process.open_files()}
    return [Path(path) for path in sorted(paths) if path.startswith("/dev/shm/")]


def kill_the_scheduler(server: Server, home: Home) -> None:
    asked = threading.Thread(target=ask_until_it_breaks, args=(server,), daemon=True)
    asked.start()
    time.sleep(2)
    scheduler = next(p for p in home.residents() if "sglang::scheduler" in p.cmdline()[0])
    scheduler.kill()
    assert server.process.wait(timeout=180) == 1
    assert server.log.rstrip().splitlines()[-1] == (
        "sglang-gemma4-ext: the server ended: its process scheduler_0 was killed by SIGKILL; "
        "the machine may be out of memory"
    )
    assert home.is_deserted()
    asked.join(timeout=30)
    assert not asked.is_alive()


def ask_until_it_breaks(server: Server) -> None:
    with contextlib.suppress(requests.RequestException):
        while True:
            server.generate(range(40, 60), 500)


@pytest.mark.server
def test_sglangs_own_command_applies_the_patches(checkpoint, tmp_path):
    flags = ("--model-path", str(checkpoint("dense")), "--log-level", "debug")
    stock = (sys.executable, *STOCK)
    env = {"SGLANG_PLATFORM": "gemma4_cpu"}
    with serve(*flags, log_dir=tmp_path, executable=stock, env=env, ready=READY) as server:
        assert "  patches    summary_at_ready, " in server.log
        hooked = "Applied 1 hook(s) to sglang.srt.layers.attention.torch_native_backend."
        # Once in the main process, once in the scheduler.
        assert server.log.count(f"{hooked}TorchNativeAttnBackend.forward_decode") == 2
        body = {"text": "x", "image_data": "AAAA"}
        answer = requests.post(f"{server.url}/generate", json=body, timeout=90)
        assert answer.status_code == 400 and "--enable-multimodal" in answer.text
