# SPDX-License-Identifier: Apache-2.0
"""Check a hub name whose files are in huggingface_hub's cache."""

from __future__ import annotations

import shutil

import pytest

from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.hub import whole_snapshot
from sglang_gemma4_ext.checkpoint.server_inputs import Inputs, check_inputs
from tests.unit.test_preflight import write_weights

NAME, COMMIT = "someone/gemma-4", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(checkpoint, tmp_path, monkeypatch):
    """Return the folder in which huggingface_hub keeps NAME, laid out as there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--gemma-4"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "blobs").mkdir()
    folder = repository / "snapshots" / COMMIT
    shutil.copytree(checkpoint("dense"), folder)
    return folder


def test_a_whole_checkpoint_is_found_and_checked(cached) -> None:
    assert whole_snapshot(NAME) == cached
    assert whole_snapshot(NAME, COMMIT) == cached
    assert check_inputs(Inputs(NAME)).path == str(cached)
    write_weights(cached / "model.safetensors", {"transformer.h.0.weight": ("BF16", (4, 4))})
    with pytest.raises(CheckpointError, match=r"first model\.language_model\.embed_tokens"):
        check_inputs(Inputs(NAME))
    check_inputs(Inputs(NAME, load_format="dummy"))


def test_a_partial_download_is_left_to_sglang(cached) -> None:
    assert whole_snapshot("someone/else") is None
    assert whole_snapshot(NAME, "another-branch") is None
    (cached / "model.safetensors").unlink()
    assert whole_snapshot(NAME) is None
    assert check_inputs(Inputs(NAME)) is None
