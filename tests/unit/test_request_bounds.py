# SPDX-License-Identifier: Apache-2.0
"""`n` as SGLang's own request record meets it, and the arguments as SGLang logs them."""

from __future__ import annotations

import pytest
from sglang.srt.managers.io_struct import GenerateReqInput

from sglang_gemma4_ext.patches.bounded_samples import _check_n
from sglang_gemma4_ext.patches.secrets_unlogged import SECRETS, _redact


@pytest.mark.parametrize("n", [0, -1, 1025, 10**6, 2**70, True, 1.5, "3", None, []])
def test_an_absurd_n_is_refused(n):
    for params in ({"n": n}, [{"n": n}], [{}, {"n": n}]):
        with pytest.raises(ValueError, match="n must be a whole number from 1 to 1024") as refused:
            _check_n(GenerateReqInput(text="x", sampling_params=params))
        assert len(str(refused.value)) < 90


@pytest.mark.parametrize("params", [None, {}, {"n": 1}, {"n": 1024}, [], [{"n": 2}, {"n": 2}]])
def test_any_other_passes_as_it_is(params):
    asked = GenerateReqInput(text="x", sampling_params=params)
    assert _check_n(asked) is None
    assert asked.sampling_params == params


def test_secrets_are_hidden_and_nothing_else():
    logged = {"model_path": "m", **dict.fromkeys(SECRETS, "s3cret"), "port": 1}
    assert _redact(logged, None) == {**logged, **dict.fromkeys(SECRETS, "<redacted>")}
    absent = {"model_path": "m", **dict.fromkeys(SECRETS)}
    assert _redact(absent, None) == absent
