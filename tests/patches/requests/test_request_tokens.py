# SPDX-License-Identifier: Apache-2.0
"""`n` as SGLang's own request record meets it, and the arguments as SGLang logs them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sglang.srt.managers.embed_types import PositionalEmbeds
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.sampling.sampling_params import SamplingParams

from sglang_gemma4_ext.patches.requests import (
    request_fields,
    request_samples,
    request_sampling,
    request_tokens,
    secrets_unlogged,
)
from sglang_gemma4_ext.patches.requests.secrets_unlogged import SECRETS
from tests.patches.hooks import hook_of

check_n = hook_of(request_samples.PATCH, "before", "_handle_parallel_sampling")
check = hook_of(request_tokens.PATCH, "before", "_create_tokenized_object")
check_single = hook_of(request_fields.PATCH, "before", "_normalize_single_inputs")
check_types = hook_of(request_fields.PATCH, "before", "_validate_one_request")
redact = hook_of(secrets_unlogged.PATCH, "after", "_server_args_for_logging")
check_sampling = hook_of(request_sampling.PATCH, "before", "verify")


@pytest.mark.parametrize("n", [0, -1, 1025, 10**6, 2**70, True, 1.5, "3", None, []])
def test_an_absurd_n_is_refused(n):
    for params in ({"n": n}, [{"n": n}], [{}, {"n": n}]):
        with pytest.raises(ValueError, match="n must be a whole number from 1 to 1024") as refused:
            check_n(GenerateReqInput(text="x", sampling_params=params))
        assert len(str(refused.value)) < 90


def test_no_parameters_at_all_are_refused():
    with pytest.raises(ValueError, match="sampling_params is an empty list"):
        check_n(GenerateReqInput(text="x", sampling_params=[]))


@pytest.mark.parametrize("params", [None, {}, {"n": 1}, {"n": 1024}, [{"n": 2}, {"n": 2}]])
def test_any_other_passes_as_it_is(params):
    asked = GenerateReqInput(text="x", sampling_params=params)
    assert check_n(asked) is None
    assert asked.sampling_params == params


@pytest.mark.parametrize("ids", [[-1, 5], [5, 512], [2**70], [[]], [[5]], ["x"]])
def test_ids_outside_the_vocabulary_are_refused(ids):
    manager = SimpleNamespace(model_config=SimpleNamespace(vocab_size=512))
    with pytest.raises(ValueError, match="token ids outside the vocabulary, 0 to 511"):
        check(manager, None, None, ids)
    with pytest.raises(ValueError, match="the prompt holds token ids outside the vocabulary"):
        check(manager, None, None, ids, None, object())


@pytest.mark.parametrize("stop", [[-1], [5, 512], [2**70], [None, "512"], [1e300]])
def test_stop_tokens_outside_the_vocabulary_are_refused(stop):
    with pytest.raises(ValueError, match="stop_token_ids must be tokens of the vocabulary"):
        check_sampling(SamplingParams(stop_token_ids=stop), 512)


@pytest.mark.parametrize("name", ["top_k", "min_new_tokens"])
@pytest.mark.parametrize("value", [2**31, 10**12, 1e300])
def test_what_32_bits_do_not_hold_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at most 2147483647"):
        check_sampling(SamplingParams(**{name: value, "temperature": 1.0}), 512)


@pytest.mark.parametrize(
    "params",
    [{}, {"top_k": -1}, {"top_k": 2**31 - 1, "temperature": 1}, {"stop_token_ids": [0, 511, None]}],
)
def test_other_sampling_parameters_pass_as_they_are(params):
    asked, same = SamplingParams(**params), SamplingParams(**params)
    assert check_sampling(asked, 512) is None
    assert asked == same


def test_a_prompt_of_no_tokens_is_refused_unless_it_is_of_embeddings():
    manager = SimpleNamespace(model_config=SimpleNamespace(vocab_size=512))
    with pytest.raises(ValueError, match="the prompt has no tokens"):
        check(manager, None, None, [])
    assert check(manager, None, None, [], [[0.5]]) is None


@pytest.mark.parametrize("ids", [None, [0], [0, 511]])
def test_ids_of_the_vocabulary_pass(ids):
    manager = SimpleNamespace(model_config=SimpleNamespace(vocab_size=512))
    assert check(manager, None, "text", ids) is None


@pytest.mark.parametrize("count", [-1, 513, 10**400])
def test_more_log_probabilities_than_tokens_are_refused(count):
    manager = SimpleNamespace(model_config=SimpleNamespace(vocab_size=512))
    with pytest.raises(ValueError, match="top log-probabilities of a token are 0 to 512 in number"):
        check(manager, GenerateReqInput(text="x", top_logprobs_num=count), "x", [5])
    for usual in (None, 0, 512):
        check(manager, GenerateReqInput(text="x", top_logprobs_num=usual), "x", [5])


def test_log_probabilities_start_in_the_prompt_or_with_the_new_tokens():
    manager = SimpleNamespace(model_config=SimpleNamespace(vocab_size=512))
    with pytest.raises(ValueError, match="logprob_start_len is -1 or a place in the prompt"):
        check(manager, GenerateReqInput(text="x", logprob_start_len=-2), "x", [5])
    for usual in (None, -1, 0, 7):
        check(manager, GenerateReqInput(text="x", logprob_start_len=usual), "x", [5])


def single(**fields) -> GenerateReqInput:
    asked = GenerateReqInput(text="x", **fields)
    asked.normalize_batch_and_arguments()
    return asked


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("return_hidden_states", []),
        ("return_hidden_states", "first"),
        ("return_logprob", [True]),
        ("top_logprobs_num", [3]),
        ("logprob_start_len", [-7]),
        ("priority", "x"),
    ],
)
def test_a_field_of_another_type_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} of a prompt: (Expected|Invalid)"):
        check_types(None, single(**{name: value}), [5])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"return_hidden_states": "last"},
        {"return_logprob": True, "top_logprobs_num": 3, "logprob_start_len": 0},
        {"return_sampling_mask": True, "sampling_logprobs_mode": "support"},
        {"priority": 3, "extra_key": "x", "lora_path": None},
    ],
)
def test_fields_of_their_types_pass(fields):
    assert check_types(None, single(**fields), [5]) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rid", ["x"]),
        ("sampling_params", []),
        ("sampling_params", [{}]),
        ("session_params", {"id": "x", "nope": 1}),
    ],
)
def test_what_a_single_prompt_cannot_have_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        check_single(GenerateReqInput(text="x", **{name: value}))
    check_single(GenerateReqInput(text="x", rid="x", session_params={"id": "x"}))


def test_embedding_overrides_are_tensors():
    with pytest.raises(ValueError, match="positional_embed_overrides cannot be given over HTTP"):
        check_types(None, single(positional_embed_overrides={}), [5])
    given = PositionalEmbeds(embeds=[torch.zeros(4)], positions=[0])
    assert check_types(None, single(positional_embed_overrides=given), [5]) is None


def test_each_prompt_of_a_batch_passes():
    batch = GenerateReqInput(text=["x", "y"], return_hidden_states=[True, "last"], priority=1)
    batch.normalize_batch_and_arguments()
    assert [check_types(None, batch[i], [5]) for i in (0, 1)] == [None, None]


def test_secrets_are_hidden_and_nothing_else():
    logged = {"model_path": "m", **dict.fromkeys(SECRETS, "s3cret"), "port": 1}
    assert redact(logged, None) == {**logged, **dict.fromkeys(SECRETS, "<redacted>")}
    absent = {"model_path": "m", **dict.fromkeys(SECRETS)}
    assert redact(absent, None) == absent
