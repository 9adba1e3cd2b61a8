# SPDX-License-Identifier: Apache-2.0
"""Print, as JSON, what a process sees of its start, and what a process that it spawns sees."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import warnings
from typing import Any


def seen() -> dict[str, Any]:
    """Return what a new interpreter would see; ids are told as relations."""
    main = sys.modules["__main__"].__spec__
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)
    return {
        "arguments": sys.argv[1:],
        "main": main and main.name,
        "environment": dict(sorted(os.environ.items())),
        "folder": os.getcwd(),
        "temporary": tempfile.gettempdir(),
        "path": sys.path,
        "filters": [str(found[:3]) for found in warnings.filters if found[0] == "error"],
        "handlers": [str(signal.getsignal(number)) for number in numbers],
        "threads": threading.active_count(),
        "sglang": sorted({"sglang", "sglang_gemma4_ext"} & set(sys.modules)),
        "leads its session": os.getsid(0) == os.getpid(),
        "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:3],
    }


def report(pipe: Any) -> None:
    import setproctitle

    setproctitle.setproctitle("a spawned title")
    with open("/proc/self/cmdline") as line:
        title = line.read().rstrip("\0").startswith("a spawned title")
    pipe.send({**seen(), "title": title, "parent": os.getppid()})


def main() -> None:
    os.environ["ADDED"] = "by the parent"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=report, args=(theirs,))
    child.start()
    told = ours.recv()
    told["parent"] = told["parent"] == os.getpid()
    child.join()
    killed = context.Process(target=signal.pause)
    killed.start()
    killed.kill()
    killed.join()
    print(json.dumps({"self": seen(), "child": told, "ends": [child.exitcode, killed.exitcode]}))
    raise SystemExit(7)


if __name__ == "__main__":
    main()
