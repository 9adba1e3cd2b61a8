# SPDX-License-Identifier: Apache-2.0
"""Check that SGLang's leftover sockets, shared memory and semaphores are found and removed."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_gemma4_ext import run_folder, settings


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(run_folder, "_instances", set())
    run_folder.make_folder()
    return Path(settings.run_folder_path())


def test_sglangs_sockets_are_in_the_folder_and_removed_with_it(folder):
    from sglang.srt.server_args import PortArgs, ServerArgs

    ports = run_folder.around_port_args(PortArgs.init_new, ServerArgs(model_path="none"))
    sockets = [name for name in vars(ports).values() if str(name).startswith("ipc://")]
    assert len(sockets) == 5
    assert {Path(name.removeprefix("ipc://")).parent for name in sockets} == {folder}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert Path(tempfile.gettempdir()) == folder.parent


def test_sockets_stay_in_sglangs_place_if_the_path_is_too_long(folder):
    def ports() -> SimpleNamespace:
        return SimpleNamespace(instance_id="x", folder=tempfile.gettempdir())

    longest = "/" + "x" * (run_folder.SOCKET_FOLDER_BYTES - 1)
    for path, theirs in ((longest, longest), (longest + "x", str(folder.parent))):
        settings.set_run_folder_path(path)
        assert run_folder.around_port_args(ports).folder == theirs
    socket_path = f"{longest}/tmpxxxxxxxx"
    assert len(socket_path) == 107
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(FileNotFoundError):
        probe.bind(socket_path)
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="too long"):
        probe.bind(socket_path + "x")


def test_only_shared_memory_that_sglang_made_and_our_processes_map_is_found(folder):
    from sglang.srt.managers.load_snapshot import shm_path_for
    from sglang.srt.utils.stale_shm_cleanup import make_shm_name

    own = [run_folder.SHARED_MEMORY / make_shm_name("mq") for _ in range(2)]
    foreign = run_folder.SHARED_MEMORY / f"of-somebody-else-{uuid.uuid4().hex}"
    instance = uuid.uuid4().hex[:12]
    run_folder._instances.add(instance)
    snapshot = Path(shm_path_for(f"ipc://{instance}"))
    every = [*own, foreign, snapshot]
    try:
        for path in every:
            path.write_bytes(bytes(4096))
        kept = [mmap.mmap(os.open(path, os.O_RDWR), 4096) for path in (own[0], foreign)]
        found = run_folder.shared_memory([os.getpid(), 2**22 + 1], run_folder.SEGMENTS)
        assert found == {own[0], snapshot}
        run_folder.remove([*found, own[0]])
        assert [path.exists() for path in every] == [False, True, True, False]
        assert len(kept) == 2
    finally:
        run_folder.remove(every)


SEMAPHORES = """
import multiprocessing, os
from sglang_gemma4_ext import run_folder
lock = multiprocessing.get_context("spawn").Lock()
found = run_folder.shared_memory([os.getpid()], run_folder.SEMAPHORES)
print(*found)
"""


def test_a_semaphore_of_multiprocessing_is_found():
    done = subprocess.run(
        [sys.executable, "-c", SEMAPHORES], capture_output=True, text=True, check=True, timeout=180
    )
    (name,) = done.stdout.split()
    assert name.startswith("/dev/shm/sem.mp-") and not Path(name).exists()
