# SPDX-License-Identifier: Apache-2.0
"""Find the programs of the CUDA toolkit, from PyTorch's dependencies or on PATH."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path


def find(name: str) -> str | None:
    """Return the path of a program such as nvcc, or None."""
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        for program in Path(folder).glob(f"cu*/bin/{name}"):
            return str(program)
    return shutil.which(name)


def missing() -> str | None:
    """Return what this machine lacks to compile CUDA C++, or None."""
    if find("nvcc") is None:
        return "nvcc"
    return None if shutil.which("g++") else "g++"
