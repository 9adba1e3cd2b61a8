# SPDX-License-Identifier: Apache-2.0
"""Check a checkpoint that SGLang downloads before its weights are read.

A local checkpoint is checked before the server starts. Of a hub name the files may come later.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from sglang_gemma4_ext.checkpoint.preflight import check_checkpoint
from sglang_gemma4_ext.checkpoint.server_inputs import DRAFT_FLAG
from sglang_gemma4_ext.registry import Hook, Patch

LOADER = "sglang.srt.model_loader.loader.DefaultModelLoader"


def _check(result: tuple[str, Any, Any], self: Any, path: str, *args: Any, **kwargs: Any) -> None:
    """AFTER _prepare_weights, which returns the folder that the weights are in."""
    if not os.path.isdir(path):
        _check_once(result[0])


@functools.cache
def _check_once(folder: str) -> None:
    """Raise CheckpointError as a start does; the flag is the one that drafts may have."""
    check_checkpoint(folder, flag=DRAFT_FLAG, tokenizer=False)


PATCH = Patch(
    name="checked_download",
    theme="checkpoints",
    summary="A checkpoint that SGLang downloads is checked before its weights are read",
    why="the files of a hub name are not there when the server starts; SGLang reads them unchecked",
    upstream="none: the check is this package's",
    retire_when="never: it goes with this package",
    retired=lambda: False,
    required=False,
    hooks=(Hook(f"{LOADER}._prepare_weights", "a1b534cd9e47", "after", _check),),
)
