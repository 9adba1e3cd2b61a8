# SPDX-License-Identifier: Apache-2.0
"""Find a model that was named as on the hub: in the cache, or on the hub itself."""

from __future__ import annotations

import re
from pathlib import Path

from sglang_gemma4_ext.checkpoint.files import CheckpointError, read_headers
from sglang_gemma4_ext.settings import another_hub

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TIMEOUT_S = 10


def check_hub_model(name: str, *, flag: str, revision: str | None = None) -> None:
    """Raise CheckpointError unless the model is in the local cache or the hub answers for it.

    A local path is not looked at. flag: the flag that named the model.
    """
    if not HUB_NAME.fullmatch(name) or Path(name).exists() or another_hub():
        return
    import httpx
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    absent = f"{flag} {name} is neither a local folder nor in the Hugging Face cache"
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{absent}, and HF_HUB_OFFLINE is set: unset it or give a folder")
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=TIMEOUT_S)
    except GatedRepoError:
        raise CheckpointError(
            f"{flag} {name} is gated: accept its terms on the hub and set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{flag} {name} is not on the hub, or private: check the name and HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{flag} {name} has no revision {revision} on the hub") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise CheckpointError(
            f"{absent}, and the hub answers {status} for its config.json"
        ) from None
    except (httpx.HTTPError, OSError) as error:
        raise CheckpointError(
            f"{absent}, and the hub cannot be reached ({error}): give a folder, or download the "
            "model where there is a network"
        ) from None


def local_folder(path: str, revision: str | None = None) -> Path | None:
    """Return a checkpoint's folder, or a hub name's snapshot in the cache; None if neither is here.

    Nothing is downloaded. A snapshot without its weights counts as absent.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if not HUB_NAME.fullmatch(path):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(path, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        return None
    return found if any(found.glob("*.safetensors")) else None


def whole_snapshot(name: str, revision: str | None = None) -> Path | None:
    """Return a hub name's snapshot in the cache; None where files of it are yet to come."""
    folder = local_folder(name, revision)
    try:
        return folder if folder is not None and read_headers(folder) else None
    except CheckpointError:
        return None
