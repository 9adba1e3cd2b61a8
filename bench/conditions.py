# SPDX-License-Identifier: Apache-2.0
"""Record the machine, versions, command and date of a row of results."""

from __future__ import annotations

import datetime
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.rows import as_line
from sglang_gemma4_ext.machine import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PACKAGES = ("sglang", "torch", "triton", "transformers")
# The folders of an absolute path; not the slashes of a URL or of a relative path.
FOLDERS = re.compile(r"(?<![\w:/.~-])/(?:[\w.+@-]+/)+")


def conditions(command: str) -> dict[str, Any]:
    """Return the conditions of bench/rows.py, ready for JSON.

    nvidia-smi names the GPU, because a CUDA context here would cost memory.
    """
    return {
        "machine": machine(),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "command": command,
    }


def kernel_conditions(module: str) -> dict[str, Any]:
    """Return the conditions of a kernel bench: also the GPU or None, and whether interpreted."""
    import torch
    import triton

    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    return conditions(command) | {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "capability": capability(),
        "interpreted": triton.knobs.runtime.interpret,
    }


def capability() -> str | None:
    """Return the name of this GPU's rows, "sm_86"; None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    return "sm_{}{}".format(*torch.cuda.get_device_capability())


def without_folders(row: dict[str, Any]) -> dict[str, Any]:
    """Replace absolute paths in the row, so that it does not depend on the machine's folders.

    A path within the repository becomes relative to it; of another path only the last name stays.
    """
    text = json.dumps(row).replace(f"{ROOT}/", "")
    return json.loads(FOLDERS.sub("", text))


def write(rows: Iterable[dict[str, Any]], file: Path) -> None:
    """Write one JSON object a line. Raises ValueError on a row without its conditions."""
    file.write_text("".join(as_line(row) + "\n" for row in rows))


def machine() -> str:
    """Return the GPU's name and memory, or the processor's name without a GPU."""
    found = gpu("name,memory.total")
    return f"{found[0]} ({found[1]} MiB)" if found else processor()


def gpu(query: str) -> list[str] | None:
    """Query nvidia-smi for the first GPU, without units; None without a GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return [part.strip() for part in lines[0].split(",")] if not done.returncode and lines else None


def commit() -> str:
    """Describe the commit with git; empty outside a checkout, as for a tree copied to a machine."""
    asked = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
