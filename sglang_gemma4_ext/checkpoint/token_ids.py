# SPDX-License-Identifier: Apache-2.0
"""Check that the token ids of config.json are in the vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_gemma4_ext.checkpoint.files import CheckpointError, json_integer

_OF_MEDIA = (
    "image_token_id", "audio_token_id", "video_token_id", "boi_token_id", "eoi_token_id",
    "boa_token_id", "eoa_token_id", "eoa_token_index",
)  # fmt: skip


def check_token_ids(config: dict[str, Any], text: dict[str, Any], file: Path) -> None:
    """Raise CheckpointError on an id that has no embedding. Ids that are left out pass."""
    vocabulary = json_integer(text, "vocab_size", file)
    if vocabulary is None:
        return
    pairs = [(config, name) for name in _OF_MEDIA] + [(text, "pad_token_id")]
    for where, name in pairs:
        found = json_integer(where, name, file)
        if found is not None and found >= vocabulary:
            raise CheckpointError(
                f"{file} has {name} {found}, and the vocabulary has {vocabulary} tokens: copy "
                "config.json from where the weights came from"
            )
