# SPDX-License-Identifier: Apache-2.0
"""Check that a damaged demo file is named in one sentence before anything starts."""

from __future__ import annotations

import shutil

import pytest

from sglang_gemma4_ext import demo, launch_server
from tests.serving.harness import free_port


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("config.json", "config.json is not valid JSON; download it again"),
        ("model.safetensors", "model.safetensors is truncated: its header pro"),
        ("tokenizer.json", "tokenizer.json is truncated or not JSON; download"),
    ],
)
def test_a_damaged_demo_file(file, words, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(demo.model_path(), tmp_path / "copy")
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes(whole[: len(whole) - 10])
    monkeypatch.setattr(demo, "model_path", lambda: copy)
    assert launch_server.main(["--demo", "--port", str(free_port())]) == launch_server.BAD_INPUT
    said = capsys.readouterr().err.strip()
    assert words in said and str(copy) in said and "\n" not in said
