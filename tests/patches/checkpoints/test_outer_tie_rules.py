# SPDX-License-Identifier: Apache-2.0
"""Check that lm_head is tied as the top level of config.json says, as in transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import transformers

from sglang_gemma4_ext.patches.checkpoints import outer_tie_rules
from tests.patches.hooks import hook_of

READ = """
import sys
from sglang_gemma4_ext import plugin
plugin.apply_for(sys.argv[1])
from sglang.srt.utils.hf_transformers.config import get_config
print("tied:", get_config(sys.argv[1], trust_remote_code=False).text_config.tie_word_embeddings)
"""


@pytest.mark.parametrize("tied", [False, True])
def test_sglang_reads_the_tie_that_transformers_reads(tied, checkpoint, tmp_path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((checkpoint("dense") / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["tie_word_embeddings"] = tied
    config["text_config"]["tie_word_embeddings"] = not tied
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert transformers.AutoConfig.from_pretrained(tmp_path).tie_word_embeddings is tied
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"tied: {tied}" in done.stdout, done.stderr


def test_a_config_that_states_no_tie_is_unchanged() -> None:
    config = SimpleNamespace(text_config=SimpleNamespace(tie_word_embeddings=True))
    hook_of(outer_tie_rules.PATCH, "after", "_apply_gemma4_attention_overrides")(None, config)
    assert config.text_config.tie_word_embeddings is True
