# SPDX-License-Identifier: Apache-2.0
"""Find the local files of a checkpoint that was named as on the hub."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(path: str, revision: str | None = None) -> Path | None:
    """Return a checkpoint's folder, or a hub name's snapshot in the cache; None if neither is here.

    Nothing is downloaded. A snapshot without its weights counts as absent.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if not _NAME.fullmatch(path):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(path, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        return None
    return found if any(found.glob("*.safetensors")) else None
