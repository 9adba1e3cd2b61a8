# SPDX-License-Identifier: Apache-2.0
"""Locate the small model and its MTP assistant that come with the package, for `--demo`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

NAME = "gemma4-demo"


def model_path() -> Path:
    """Return the bundled checkpoint's folder.

    Raises ValueError if the installation lacks it.
    """
    return _bundled("model")


def assistant_path() -> Path:
    """Return the folder of its MTP assistant.

    Raises ValueError if the installation lacks it.
    """
    return _bundled("assistant")


def _bundled(name: str) -> Path:
    folder = Path(str(files("sglang_gemma4_ext.demo") / name))
    if not (folder / "config.json").is_file():
        raise ValueError(f"the bundled model is missing from {folder}; reinstall the package")
    return folder
