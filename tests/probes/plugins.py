# SPDX-License-Identifier: Apache-2.0
"""Install a test's own plugin of SGLang for one server, found by its entry point as ours is."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment_with(folder: Path, module: str) -> dict[str, str]:
    """Return the environment in which every process of a server calls `module`.activate."""
    name = module.rpartition(".")[2]
    info = folder / f"{name}-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n")
    entry = f"[sglang.srt.plugins]\n{name} = {module}:activate\n"
    (info / "entry_points.txt").write_text(entry)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
