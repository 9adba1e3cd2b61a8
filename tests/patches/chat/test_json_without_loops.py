# SPDX-License-Identifier: Apache-2.0
"""Check which whitespace the JSON grammars of SGLang's XGrammar backend allow."""

from __future__ import annotations

import pytest
import torch

from bench.checkpoints.tokenizer import VOCAB
from sglang_gemma4_ext.patches.chat import json_without_loops
from tests.chat.masked import STOPS, made_tokenizer

SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'


def backend(**more):
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend

    return XGrammarGrammarBackend(
        made_tokenizer(), vocab_size=VOCAB, model_eos_token_ids=STOPS, **more
    )


def may_follow(made, text: str, what: str) -> bool:
    """Tell whether the mask allows token `what` after the text."""
    (token,) = made_tokenizer().encode(what, add_special_tokens=False)
    grammar = made.copy()
    for taken in made_tokenizer().encode(text, add_special_tokens=False):
        grammar.accept_token(taken)
    mask = torch.full((1, VOCAB // 32), -1, dtype=torch.int32)
    grammar.fill_vocab_mask(mask, 0)
    return bool(int(mask[0, token // 32]) >> (token % 32) & 1)


@pytest.mark.parametrize("key", [SCHEMA, "$$ANY$$"])
def test_no_whitespace_can_repeat(apply, key):
    assert may_follow(backend().dispatch_json(key), "{\n\n", "\n")
    apply(json_without_loops.PATCH)
    made = backend(any_whitespace=True).dispatch_json(key)
    assert not may_follow(made, "{", "\n")
    assert may_follow(made, '{"a":', " ")
    assert not may_follow(made, '{"a": ', " ")
    assert may_follow(made, '{"a": 1', "}")


def test_a_whitespace_limit_set_by_the_user_allows_whitespace(apply):
    apply(json_without_loops.PATCH)
    made = backend(any_whitespace=True, max_whitespace_cnt=2).dispatch_json(SCHEMA)
    assert may_follow(made, "{\n", "\n")
    assert not may_follow(made, "{\n\n", "\n")
