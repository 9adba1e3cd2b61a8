# SPDX-License-Identifier: Apache-2.0
"""What a row of a kernel bench was made under, and the capability whose table it is for."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import torch
import triton

from bench import conditions as common


def conditions(module: str) -> dict[str, Any]:
    """Machine, versions, commit, date and command; the GPU, or None; whether interpreted."""
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    return common.conditions(command) | {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "capability": capability(),
        "interpreted": triton.knobs.runtime.interpret,
    }


def capability() -> str | None:
    """The name of this GPU's rows, "sm_86"; None without one."""
    if not torch.cuda.is_available():
        return None
    return "sm_{}{}".format(*torch.cuda.get_device_capability())
