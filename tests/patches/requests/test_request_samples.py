# SPDX-License-Identifier: Apache-2.0
"""Check the bounds of `n` on SGLang's own request record."""

from __future__ import annotations

import pytest
from sglang.srt.managers.io_struct import GenerateReqInput

from sglang_gemma4_ext.patches.requests import request_samples
from tests.patches.hooks import hook_of

check_n = hook_of(request_samples.PATCH, "before", "_handle_parallel_sampling")


@pytest.mark.parametrize("n", [0, -1, 1025, 10**6, 2**70, True, 1.5, "3", None, []])
def test_an_n_out_of_bounds_is_refused(n):
    for params in ({"n": n}, [{"n": n}], [{}, {"n": n}]):
        with pytest.raises(ValueError, match="n must be a whole number from 1 to 1024") as refused:
            check_n(GenerateReqInput(text="x", sampling_params=params))
        assert len(str(refused.value)) < 90


def test_null_parameters_are_refused():
    with pytest.raises(ValueError, match="sampling_params is an empty list"):
        check_n(GenerateReqInput(text="x", sampling_params=[]))


@pytest.mark.parametrize("params", [None, {}, {"n": 1}, {"n": 1024}, [{"n": 2}, {"n": 2}]])
def test_other_parameters_pass_unchanged(params):
    asked = GenerateReqInput(text="x", sampling_params=params)
    assert check_n(asked) is None
    assert asked.sampling_params == params
