# SPDX-License-Identifier: Apache-2.0
"""Describe the conditions of a kernel bench, and name the GPU's capability."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import torch
import triton

from bench import conditions as common


def conditions(module: str) -> dict[str, Any]:
    """Return machine, versions, commit, date, command, GPU or None, and whether interpreted."""
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    return common.conditions(command) | {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "capability": capability(),
        "interpreted": triton.knobs.runtime.interpret,
    }


def capability() -> str | None:
    """Return the name of this GPU's rows, "sm_86"; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    return "sm_{}{}".format(*torch.cuda.get_device_capability())
