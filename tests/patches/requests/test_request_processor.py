# SPDX-License-Identifier: Apache-2.0
"""Check which custom logit processors are refused, by SGLang's own serialization."""

from __future__ import annotations

import json
import sys
import types
from types import SimpleNamespace

import dill
import pytest
import requests
from sglang.srt.managers import tokenizer_manager
from sglang.srt.sampling.custom_logit_processor import (
    CustomLogitProcessor,
    DisallowedTokensLogitsProcessor,
)

from sglang_gemma4_ext.patches.requests import request_processor
from tests.patches.hooks import hook_of
from tests.serving.harness import serve

check = hook_of(request_processor.PATCH, "before", "_validate_one_request")


def of_a_module_that_is_absent() -> str:
    """Serialize a class by reference to a module that exists only while it is serialized."""
    module = types.ModuleType("only_at_the_client")
    sys.modules[module.__name__] = module
    module.Mine = type("Mine", (CustomLogitProcessor,), {"__module__": module.__name__})
    try:
        return json.dumps({"callable": dill.dumps(module.Mine, byref=True).hex()})
    finally:
        del sys.modules[module.__name__]


GOOD = DisallowedTokensLogitsProcessor.to_str()
BAD = {
    "No module named 'only_at_the_client'": of_a_module_that_is_absent(),
    "JSONDecodeError": "{",
    "KeyError: 'callable'": "{}",
    "non-hexadecimal": '{"callable": "xyz"}',
    "abstract": json.dumps({"callable": dill.dumps(CustomLogitProcessor).hex()}),
    "is a int and cannot be called": json.dumps({"callable": dill.dumps(int).hex()}),
}


@pytest.fixture
def allowed(monkeypatch):
    def allow(enabled: bool) -> None:
        features = SimpleNamespace(enable_custom_logit_processor=enabled)
        monkeypatch.setattr(
            tokenizer_manager, "get_exec", lambda: SimpleNamespace(features=features)
        )

    return allow


@pytest.mark.parametrize("said", BAD)
def test_what_the_scheduler_could_not_load_is_refused(allowed, said):
    allowed(True)
    with pytest.raises(ValueError, match="custom_logit_processor") as error:
        check(None, SimpleNamespace(custom_logit_processor=BAD[said]))
    assert said in str(error.value)


def test_sound_processors_pass_and_nothing_is_loaded_where_none_are_allowed(allowed):
    allowed(True)
    for given in (GOOD, None, ""):
        assert check(None, SimpleNamespace(custom_logit_processor=given)) is None
    allowed(False)
    assert check(None, SimpleNamespace(custom_logit_processor="{")) is None


@pytest.mark.slow
@pytest.mark.server
def test_a_real_server_answers_400_and_lives(tmp_path):
    flags = ("--demo", "--enable-custom-logit-processor")
    with serve(*flags, log_dir=tmp_path) as server:

        def status(processor: str) -> int:
            params = {"max_new_tokens": 2, "custom_params": {"token_ids": [5]}}
            body = {"text": "x", "sampling_params": params, "custom_logit_processor": processor}
            return requests.post(f"{server.url}/generate", json=body, timeout=300).status_code

        assert [status(bad) for bad in BAD.values()] == [400] * len(BAD)
        assert status(GOOD) == 200
