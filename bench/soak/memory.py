# SPDX-License-Identifier: Apache-2.0
"""Record the memory of each of a server's processes over time, from /proc.

Resident memory counts pages of files, such as torch's libraries, which depend on the machine's
other load. A process's own memory is what it has allocated, swapped out or not. A leak is in both.
PSS would change whenever another process maps the same library.
"""

from __future__ import annotations

import re
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

MIB_IN_KIB = 1024
OWN = ("RssAnon", "RssShmem", "VmSwap")


@dataclass(frozen=True)
class Sample:
    """Hold one sample. at_s: seconds since the start; the rest in MiB."""

    at_s: float
    resident_mib: float
    own_mib: float


@dataclass
class Samples:
    by_process: dict[str, list[Sample]] = field(default_factory=dict)

    def growth(self, warm_up_s: float) -> dict[str, dict[str, Any]]:
        """Return by process and kind of memory: MiB after the warm-up, at the end, and the growth.

        Each is the median of a fifth of the samples after the warm-up. The growth is None for a
        process that did not run from the warm-up to the end.
        """
        last = max((s[-1].at_s for s in self.by_process.values()), default=0.0)
        found = {}
        for name, series in self.by_process.items():
            warm = [sample for sample in series if sample.at_s >= warm_up_s]
            whole = len(warm) >= 5 and series[0].at_s <= warm_up_s and series[-1].at_s >= last
            found[name] = {
                kind: _growth([getattr(sample, f"{kind}_mib") for sample in warm])
                if whole
                else None
                for kind in ("resident", "own")
            }
        return found


def _growth(mib: list[float]) -> dict[str, float]:
    fifth = len(mib) // 5
    first, final = statistics.median(mib[:fifth]), statistics.median(mib[-fifth:])
    return {
        "after_warm_up_mib": round(first, 1),
        "at_the_end_mib": round(final, 1),
        "most_mib": round(max(mib), 1),
        "growth": round(final / first - 1, 5),
    }


def sample(pid: int, at_s: float) -> Sample:
    """Sample one process. Raises OSError for a process that has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = {name: int(n) for name, n in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE)}
    if "VmRSS" not in kib:
        raise ProcessLookupError(f"process {pid} has ended")
    own = sum(kib.get(name, 0) for name in OWN)
    return Sample(at_s, kib["VmRSS"] / MIB_IN_KIB, own / MIB_IN_KIB)


def watch(root: int, every_s: float, done: threading.Event) -> Samples:
    """Sample the process `root` and all its descendants until `done` is set."""
    samples, began = Samples(), time.monotonic()
    while True:
        at_s = round(time.monotonic() - began, 1)
        for process in _family(root):
            try:
                taken, name = sample(process.pid, at_s), _name(process, root)
            except (OSError, psutil.Error):
                continue
            samples.by_process.setdefault(name, []).append(taken)
        if done.wait(every_s):
            return samples


def _family(root: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _name(process: psutil.Process, root: int) -> str:
    """Return SGLang's title of a process, such as sglang::scheduler, or Python's module."""
    if process.pid == root:
        return "server"
    line = " ".join(process.cmdline())
    title = re.search(r"sglang::\S+|multiprocessing\.\w+", line)
    return title[0] if title else f"process {process.pid}"
