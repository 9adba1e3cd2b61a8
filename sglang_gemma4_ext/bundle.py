# SPDX-License-Identifier: Apache-2.0
"""Write a bug report's bundle: `python -m sglang_gemma4_ext.doctor --bundle FILE --log LOG`.

The bundle is one JSON file: the doctor's report, the environment variables that servers read, and
the end of a server's log. Servers keep no log of their own, so the user names the file to which a
server's output went. Secrets and logged requests are left out.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.redaction import redact, settings_of

LOG_LINES = 200
LINE_CHARACTERS = 4000
PREFIXES = ("SGLANG_", "TRITON_", "CUDA_", "HF_", "TORCH", "PYTORCH_", "NCCL_", "OMP_", "PYTHON")


def write(path: Path, report: dict[str, Any], log: Path | None, env: Mapping[str, str]) -> None:
    """Write the bundle. Raises OSError if the log cannot be read or the file not written."""
    content = {
        "doctor": without_secrets(report, env),
        "environment": settings_of(env, PREFIXES),
        "log": [] if log is None else last_lines(log, env),
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def without_secrets(value: Any, env: Mapping[str, str]) -> Any:
    """Redact every text within JSON-ready data."""
    if isinstance(value, dict):
        return {name: without_secrets(part, env) for name, part in value.items()}
    if isinstance(value, list):
        return [without_secrets(part, env) for part in value]
    return redact(value, env) if isinstance(value, str) else value


def last_lines(log: Path, env: Mapping[str, str]) -> list[str]:
    """Return the last lines of a log without secrets, each cut to a few thousand characters."""
    with log.open(errors="replace") as file:
        lines = deque(file, LOG_LINES)
    return [redact(line.rstrip("\n"), env)[:LINE_CHARACTERS] for line in lines]
