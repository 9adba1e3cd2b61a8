# SPDX-License-Identifier: Apache-2.0
"""A module of the tests as a plugin of SGLang, in the processes of one server."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def installed_as_plugin(name: str, entry_point: str, folder: Path) -> dict[str, str]:
    """Write a distribution into `folder`; returns the environment in which SGLang finds it."""
    info = folder / f"{name.replace('-', '_')}-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        f"[sglang.srt.plugins]\n{name.replace('-', '_')} = {entry_point}\n"
    )
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
