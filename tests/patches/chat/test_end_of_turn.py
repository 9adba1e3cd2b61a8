# SPDX-License-Identifier: Apache-2.0
"""Check the stop tokens of a scheduler whose checkpoint names none."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from bench.checkpoints.tokenizer import TOKEN_ID, tokenizer
from sglang_gemma4_ext.patches.chat import end_of_turn
from tests.patches.chat.engine import gemma_tokenizer
from tests.patches.hooks import hook_of

add = hook_of(end_of_turn.PATCH, "after", "init_tokenizer")
EOS, TURN, RESPONSE = (TOKEN_ID[t] for t in ("<eos>", "<turn|>", "<|tool_response>"))


@pytest.fixture
def stops(monkeypatch, caplog):
    parallel = SimpleNamespace(tp_rank=0)
    monkeypatch.setattr("sglang.srt.runtime_context.get_parallel", lambda: parallel)
    caplog.set_level(logging.INFO)

    def after(made, known):
        config = SimpleNamespace(hf_eos_token_id=known)
        add(None, SimpleNamespace(tokenizer=made, model_config=config))
        lines = [r.getMessage() for r in caplog.records if "end of a turn" in r.getMessage()]
        return config.hf_eos_token_id, lines

    return after


def test_end_of_turn_tokens_are_added_and_logged_in_one_line(stops):
    known, lines = stops(gemma_tokenizer(), {EOS})
    assert known == {EOS, TURN, RESPONSE}
    assert len(lines) == 1
    assert f"<turn|> ({TURN}) and <|tool_response> ({RESPONSE})" in lines[0]


def test_a_template_without_tools_has_one_end_token(stops):
    assert stops(tokenizer(), None)[0] == {TURN}


def test_stop_tokens_of_the_checkpoint_are_kept(stops):
    known = {EOS, TURN, RESPONSE}
    assert stops(gemma_tokenizer(), known) == (known, [])
    assert stops(None, {EOS}) == ({EOS}, [])
