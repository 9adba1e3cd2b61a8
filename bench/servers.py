# SPDX-License-Identifier: Apache-2.0
"""Start the compared servers, stock SGLang and the extension, and watch their memory and logs.

Each runs in a process of its own, with the same flags.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

from bench import processes
from bench.conditions import gpu
from bench.processes import POLL_S

MIB = 1 << 20


@dataclass(frozen=True)
class Side:
    """Describe a compared server: the module that starts it, and what differs."""

    name: str
    module: str
    env: Mapping[str, str] = field(default_factory=dict)


# SGLANG_PLUGINS lists the plugins that may load. This name belongs to none, so none loads.
STOCK = Side("stock", "sglang.launch_server", {"SGLANG_PLUGINS": "none"})
EXTENSION = Side("extension", "sglang_gemma4_ext.launch_server")
SIDES = {side.name: side for side in (STOCK, EXTENSION)}


@dataclass
class Server(processes.Server):
    """Hold a running server whose memory is watched; `peak_mib` grows while it runs.

    used_before_mib: GPU memory in use before the server was started; None without a GPU
    """

    used_before_mib: int | None = None
    peak_mib: int = 0

    @property
    def memory(self) -> str:
        """Name what `peak_mib` counts."""
        return "resident" if self.used_before_mib is None else "GPU, by nvidia-smi"

    def memory_mib(self) -> int:
        used = _gpu_used_mib()
        if used is None or self.used_before_mib is None:
            return _resident_mib(self.process.pid)
        return used - self.used_before_mib

    def pools(self) -> dict[str, Any]:
        """Return the tokens of the KV pools of full and sliding layers, None for no pool.

        `made_gib` has what SGLang measured of weights, KV and CUDA graphs while it started, and
        `context`: what the GPU held of this server before its weights.
        """
        usage = self._state().get("memory_usage") or {}
        graphs = sum((usage.get("graph") or {}).values())
        return {
            "pool_full_tokens": usage.get("token_capacity"),
            "pool_sliding_tokens": usage.get("token_capacity_swa"),
            "made_gib": {
                "weights": usage.get("weight"), "kv": usage.get("kvcache"), "graphs": graphs,
                "context": context_gib(self.log, gpu("memory.total"), self.used_before_mib),
            },
        }  # fmt: skip

    def retractions(self) -> int | None:
        """Count requests retracted for lack of KV memory; needs --enable-metrics."""
        text = requests.get(f"{self.url}/metrics", timeout=60).text
        found = re.findall(r"^sglang:num_retracted_requests_total.* (\S+)$", text, re.MULTILINE)
        if found:
            return round(sum(map(float, found)))
        # A counter appears with its first event.
        return 0 if "sglang:" in text else None

    def _state(self) -> dict[str, Any]:
        reply = requests.get(f"{self.url}/server_info", timeout=60)
        reply.raise_for_status()
        return reply.json()["internal_states"][0]


@contextlib.contextmanager
def running(
    side: Side, flags: Sequence[str], folder: Path, *, start_s: float, env: Mapping[str, str] = {}
) -> Iterator[Server]:
    """Start a server, yield it when it is ready, and end all its processes afterwards.

    folder: for its log
    start_s: seconds until it must be ready
    Raises ServerError if it ends earlier or takes longer.
    """
    port = str(processes.free_port())
    before = _gpu_used_mib()
    command = (sys.executable, "-m", side.module, *flags)
    log_file = folder / f"{side.name}-{port}.log"
    env = {**environment(side), **env}
    with processes.started(command, log_file, port=port, env=env, cwd=Path.cwd()) as process:
        server = Server(**vars(process), used_before_mib=before)
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(server, done), daemon=True)
        watcher.start()
        try:
            processes.wait_until_ready(server, start_s)
            yield server
        finally:
            done.set()
            watcher.join()
    _wait_for_memory(before)


def environment(side: Side) -> dict[str, str]:
    """Copy this process's environment, without what would make the two sides differ."""
    left_out = ("SGLANG_PLUGINS", "SGLANG_PLATFORM", "SGLANG_GEMMA4_EXT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {**kept, "HF_HUB_OFFLINE": "1", **side.env}


def _watch(server: Server, done: threading.Event) -> None:
    while not done.wait(POLL_S):
        server.peak_mib = max(server.peak_mib, server.memory_mib())


def context_gib(log: str, total_mib: list[str] | None, before_mib: int | None) -> float | None:
    """Return what a server had taken of its GPU when it began to load weights, from its log."""
    found = re.search(r"Load weight begin\. avail mem=([\d.]+) GB", log)
    if not found or not total_mib or before_mib is None:
        return None
    return round((int(total_mib[0]) - before_mib) / 1024 - float(found[1]), 2)


def _gpu_used_mib() -> int | None:
    found = gpu("memory.used")
    return int(found[0]) if found else None


def _resident_mib(pid: int) -> int:
    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total // MIB


def _wait_for_memory(before: int | None, most_s: float = 20) -> None:
    """Wait until the GPU's memory is as before, for the next server."""
    deadline = time.monotonic() + most_s
    while before is not None and time.monotonic() < deadline:
        if (_gpu_used_mib() or 0) <= before + 256:
            return
        time.sleep(POLL_S)
