# SPDX-License-Identifier: Apache-2.0
"""Check the types of request fields, single and batched, on SGLang's own record."""

from __future__ import annotations

import pytest
import torch
from sglang.srt.managers.embed_types import PositionalEmbeds
from sglang.srt.managers.io_struct import GenerateReqInput

from sglang_gemma4_ext.patches.requests import request_fields
from tests.patches.hooks import hook_of

check_single = hook_of(request_fields.PATCH, "before", "_normalize_single_inputs")
check_types = hook_of(request_fields.PATCH, "before", "_validate_one_request")


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
def test_fields_of_the_right_type_pass(fields):
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
def test_fields_of_a_batch_are_refused_for_a_single_prompt(name, value):
    with pytest.raises(ValueError, match=name):
        check_single(GenerateReqInput(text="x", **{name: value}))
    check_single(GenerateReqInput(text="x", rid="x", session_params={"id": "x"}))


def test_embedding_overrides_must_be_tensors():
    with pytest.raises(ValueError, match="positional_embed_overrides cannot be given over HTTP"):
        check_types(None, single(positional_embed_overrides={}), [5])
    given = PositionalEmbeds(embeds=[torch.zeros(4)], positions=[0])
    assert check_types(None, single(positional_embed_overrides=given), [5]) is None


def test_each_prompt_of_a_batch_passes():
    batch = GenerateReqInput(text=["x", "y"], return_hidden_states=[True, "last"], priority=1)
    batch.normalize_batch_and_arguments()
    assert [check_types(None, batch[i], [5]) for i in (0, 1)] == [None, None]
