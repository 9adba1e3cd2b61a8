# SPDX-License-Identifier: Apache-2.0
"""Check token ids and log-probability bounds of a prompt for a vocabulary of 512."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sglang.srt.managers.io_struct import GenerateReqInput

from sglang_gemma4_ext.patches.requests import request_tokens
from tests.patches.hooks import hook_of

check = hook_of(request_tokens.PATCH, "before", "_create_tokenized_object")


@pytest.mark.parametrize("ids", [[-1, 5], [5, 512], [2**70], [[]], [[5]], ["x"]])
def test_ids_outside_the_vocabulary_are_refused(ids):
    manager = SimpleNamespace(model_config=SimpleNamespace(vocab_size=512))
    with pytest.raises(ValueError, match="token ids outside the vocabulary, 0 to 511"):
        check(manager, None, None, ids)
    with pytest.raises(ValueError, match="the prompt holds token ids outside the vocabulary"):
        check(manager, None, None, ids, None, object())


def test_an_empty_prompt_is_refused_unless_it_has_embeddings():
    manager = SimpleNamespace(model_config=SimpleNamespace(vocab_size=512))
    with pytest.raises(ValueError, match="the prompt has no tokens"):
        check(manager, None, None, [])
    assert check(manager, None, None, [], [[0.5]]) is None


@pytest.mark.parametrize("ids", [None, [0], [0, 511]])
def test_ids_within_the_vocabulary_pass(ids):
    manager = SimpleNamespace(model_config=SimpleNamespace(vocab_size=512))
    assert check(manager, None, "text", ids) is None


@pytest.mark.parametrize("count", [-1, 513, 10**400])
def test_more_log_probabilities_than_vocabulary_are_refused(count):
    manager = SimpleNamespace(model_config=SimpleNamespace(vocab_size=512))
    with pytest.raises(
        ValueError, match="the number of top log-probabilities must be from 0 to 512"
    ):
        check(manager, GenerateReqInput(text="x", top_logprobs_num=count), "x", [5])
    for usual in (None, 0, 512):
        check(manager, GenerateReqInput(text="x", top_logprobs_num=usual), "x", [5])


def test_log_probabilities_that_start_before_the_prompt_are_refused():
    manager = SimpleNamespace(model_config=SimpleNamespace(vocab_size=512))
    with pytest.raises(
        ValueError, match="logprob_start_len must be -1 or a position in the prompt"
    ):
        check(manager, GenerateReqInput(text="x", logprob_start_len=-2), "x", [5])
    for usual in (None, -1, 0, 7):
        check(manager, GenerateReqInput(text="x", logprob_start_len=usual), "x", [5])
