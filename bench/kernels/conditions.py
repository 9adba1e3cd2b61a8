# SPDX-License-Identifier: Apache-2.0
"""What a row of results was made under, and the capability whose table it is for."""

from __future__ import annotations

import platform
import subprocess
from typing import Any

import torch
import triton


def conditions() -> dict[str, Any]:
    """GPU, versions and our commit, as they are written into each row."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "capability": capability(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


def capability() -> str | None:
    """The name of this GPU's rows, "sm_86"; None without one."""
    if not torch.cuda.is_available():
        return None
    return "sm_{}{}".format(*torch.cuda.get_device_capability())
