# SPDX-License-Identifier: Apache-2.0
"""Check the bounds of sampling parameters on SGLang's own record."""

from __future__ import annotations

import pytest
from sglang.srt.sampling.sampling_params import SamplingParams

from sglang_gemma4_ext.patches.requests import request_sampling
from tests.patches.hooks import hook_of

check_sampling = hook_of(request_sampling.PATCH, "before", "verify")


@pytest.mark.parametrize("stop", [[-1], [5, 512], [2**70], [None, "512"], [1e300]])
def test_stop_tokens_outside_the_vocabulary_are_refused(stop):
    with pytest.raises(ValueError, match="stop_token_ids must be tokens of the vocabulary"):
        check_sampling(SamplingParams(stop_token_ids=stop), 512)


@pytest.mark.parametrize("name", ["top_k", "min_new_tokens"])
@pytest.mark.parametrize("value", [2**31, 10**12, 1e300])
def test_values_beyond_32_bits_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at most 2147483647"):
        check_sampling(SamplingParams(**{name: value, "temperature": 1.0}), 512)


@pytest.mark.parametrize(
    "params",
    [{}, {"top_k": -1}, {"top_k": 2**31 - 1, "temperature": 1}, {"stop_token_ids": [0, 511, None]}],
)
def test_other_sampling_parameters_pass_unchanged(params):
    asked, same = SamplingParams(**params), SamplingParams(**params)
    assert check_sampling(asked, 512) is None
    assert asked == same
