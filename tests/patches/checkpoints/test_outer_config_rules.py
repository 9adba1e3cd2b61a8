# SPDX-License-Identifier: Apache-2.0
"""SGLang reads each top-level field of config.json as transformers does.

transformers 5.19 reads tie_word_embeddings, dtype, the ids of media and, for generation, the ends
there. initializer_range is for training.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from sglang_gemma4_ext.patches.checkpoints import outer_config_rules
from tests.patches.hooks import hook_of

READ = """
import json, sys
from sglang_gemma4_ext import plugin
plugin.apply_for(sys.argv[1])
from sglang.srt.configs.model_config import ModelConfig
for path in sys.argv[1:]:
    config = ModelConfig(model_path=path, enable_multimodal=False)
    found = {name: getattr(config.hf_config, name, None) for name in
             ("image_token_id", "video_token_id", "audio_token_id")}
    print(json.dumps({**found, "eos": sorted(config.hf_eos_token_id), "dtype": str(config.dtype),
                      "tied": config.hf_text_config.tie_word_embeddings}))
"""
# (top level, text configuration); what is not named is absent.
CASES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"tie_word_embeddings": False}, {"tie_word_embeddings": True}),
    ({"tie_word_embeddings": True}, {"tie_word_embeddings": False}),
    ({"tie_word_embeddings": False}, {}),
    ({"dtype": "float16"}, {"dtype": "bfloat16"}),
    ({"dtype": "bfloat16"}, {"dtype": "float16"}),
    ({"dtype": "float16"}, {}),
    ({"eos_token_id": [5, 9]}, {"eos_token_id": 6}),
    ({}, {"eos_token_id": [6, 7]}),
    ({"eos_token_id": 5}, {}),
    ({"image_token_id": 30, "video_token_id": 31, "audio_token_id": 32}, {"image_token_id": 33}),
)
REMOVED = ("tie_word_embeddings", "dtype", "eos_token_id")


@pytest.fixture(scope="module")
def read(checkpoint, tmp_path_factory) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, what SGLang reads) of each case, from one process."""
    folders = []
    source = checkpoint("dense")
    for top, text in CASES:
        folder = tmp_path_factory.mktemp("case")
        (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
        config = json.loads((source / "config.json").read_text())
        for name in REMOVED:
            config.pop(name, None)
            config["text_config"].pop(name, None)
        config.update(top)
        config["text_config"].update(text)
        (folder / "config.json").write_text(json.dumps(config))
        folders.append(folder)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, *map(str, folders)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(folders), done.stderr[-3000:]
    return list(zip(folders, lines, strict=True))


@pytest.mark.parametrize("case", range(len(CASES)))
def test_sglang_reads_what_transformers_reads(case, read) -> None:
    folder, found = read[case]
    config = transformers.AutoConfig.from_pretrained(folder)
    ends = transformers.GenerationConfig.from_model_config(config).eos_token_id
    for name in ("image_token_id", "video_token_id", "audio_token_id"):
        assert found[name] == getattr(config, name)
    assert found["eos"] == sorted([ends] if isinstance(ends, int) else ends)
    assert found["tied"] is config.tie_word_embeddings
    # Without a dtype, and for float32, SGLang serves a Gemma in BF16 on purpose.
    assert found["dtype"] == str(config.dtype or torch.bfloat16)


def test_a_config_without_fields_of_its_own_is_left_alone() -> None:
    text = SimpleNamespace(tie_word_embeddings=True, dtype=torch.bfloat16, eos_token_id=1)
    config = SimpleNamespace(text_config=text)
    hook_of(outer_config_rules.PATCH, "after", "_apply_gemma4_attention_overrides")(None, config)
    assert text.tie_word_embeddings is True and text.dtype is torch.bfloat16
    assert config.eos_token_id == 1
