# SPDX-License-Identifier: Apache-2.0
"""Check /metrics with and without the API key, by SGLang's own decision."""

from __future__ import annotations

import pytest
from sglang.srt.utils.auth import AuthLevel, decide_request_auth

from sglang_gemma4_ext.patches.requests import metrics_key
from tests.patches.hooks import hook_of

guard = hook_of(metrics_key.PATCH, "around", "decide_request_auth")


@pytest.mark.parametrize(
    ("path", "key", "given", "allowed"),
    [
        ("/metrics", "k", None, False),
        ("/metrics/", "k", "Bearer wrong", False),
        ("/metrics", "k", "Bearer k", True),
        ("/metrics", None, None, True),
        ("/health", "k", None, True),
    ],
)
def test_metrics_need_the_key_and_health_does_not(path, key, given, allowed):
    request = {
        "method": "GET",
        "authorization_header": given,
        "api_key": key,
        "admin_api_key": None,
        "auth_level": AuthLevel.NORMAL,
    }
    assert guard(decide_request_auth, path=path, **request).allowed is allowed
