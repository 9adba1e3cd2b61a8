# SPDX-License-Identifier: Apache-2.0
"""The small model that comes with the package, for `--demo`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

NAME = "gemma4-demo"


def model_path() -> Path:
    """The bundled checkpoint's folder. Raises ValueError if the installation lacks it."""
    folder = Path(str(files("sglang_gemma4_ext.demo") / "model"))
    if not (folder / "config.json").is_file():
        raise ValueError(f"the bundled model is missing from {folder}; reinstall the package")
    return folder
