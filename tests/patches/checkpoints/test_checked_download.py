# SPDX-License-Identifier: Apache-2.0
"""Check a checkpoint between its download and the reading of its weights."""

from __future__ import annotations

import shutil

import pytest

from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.patches.checkpoints import checked_download
from tests.patches.hooks import hook_of
from tests.unit.test_preflight import write_weights


def test_a_downloaded_folder_is_checked_and_a_local_one_was(checkpoint, tmp_path) -> None:
    folder = str(shutil.copytree(checkpoint("dense"), tmp_path / "snapshot"))
    check = hook_of(checked_download.PATCH, "after", "_prepare_weights")
    check((folder, [], True), None, "someone/gemma-4", None)
    broken = str(shutil.copytree(folder, tmp_path / "broken"))
    write_weights(tmp_path / "broken" / "model.safetensors", {"a": ("BF16", (4, 4))})
    check((broken, [], True), None, broken, None)
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors"):
        check((broken, [], True), None, "someone/gemma-4", None)
