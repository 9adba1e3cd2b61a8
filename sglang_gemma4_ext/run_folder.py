# SPDX-License-Identifier: Apache-2.0
"""Collect a server's sockets and shared memory, and remove them when it ends.

SGLang ends its processes by SIGKILL. The files of its sockets then stay in the temporary folder,
and its shared memory in /dev/shm. Once that is full, a scheduler dies of SIGBUS. SGLang's own sweep
(sglang.srt.utils.stale_shm_cleanup) runs only in its CI, because it removes any server's files.
Here all processes of one server share a folder for sockets. Both are removed when that server ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sglang_gemma4_ext import settings

# A socket's path has at most 107 bytes; mkstemp makes its name within the folder.
SOCKET_FOLDER_BYTES = 107 - len("/tmpxxxxxxxx")
SHARED_MEMORY = Path("/dev/shm")
# Named by sglang.srt.utils.stale_shm_cleanup, .managers.load_snapshot and multiprocessing.
SEGMENTS = ("sgl_shm_", "sglang_loads_")
SEMAPHORES = ("sem.mp-",)

_instances: set[str] = set()


def make_folder() -> None:
    """Make the folder, and name it in the environment that the children inherit."""
    settings.set_run_folder_path(tempfile.mkdtemp(prefix="gemma4-ext-"))


def remove_folder() -> None:
    folder = settings.run_folder_path()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def around_port_args(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Put sockets into the folder and record the server's instance (AROUND PortArgs.init_new)."""
    folder, before = settings.run_folder_path(), tempfile.tempdir
    if folder is not None and len(os.fsencode(folder)) <= SOCKET_FOLDER_BYTES:
        tempfile.tempdir = folder
    try:
        ports = original(*args, **kwargs)
    finally:
        tempfile.tempdir = before
    _instances.add(ports.instance_id)
    return ports


def shared_memory(pids: Iterable[int], kinds: tuple[str, ...]) -> set[Path]:
    """List segments or semaphores that these processes map, and this server's snapshots.

    They are compared by inode, because glibc maps a new semaphore under a temporary name.
    """
    mapped: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps") as maps:
            mapped |= {int(line.split()[4]) for line in maps if f" {SHARED_MEMORY}/" in line}
    snapshots = tuple(f"sglang_loads_{name}_" for name in _instances)
    found = set()
    for path in SHARED_MEMORY.glob("*"):
        with contextlib.suppress(OSError):  # files of other servers may vanish at any moment
            if path.name.startswith(kinds) and path.stat().st_ino in mapped:
                found.add(path)
        if path.name.startswith(snapshots):
            found.add(path)
    return found


def remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
