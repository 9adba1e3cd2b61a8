# SPDX-License-Identifier: Apache-2.0
"""Check that secrets are redacted in SGLang's logged arguments."""

from __future__ import annotations

from sglang_gemma4_ext.patches.requests import secrets_unlogged
from sglang_gemma4_ext.patches.requests.secrets_unlogged import SECRETS
from tests.patches.hooks import hook_of

redact = hook_of(secrets_unlogged.PATCH, "after", "_server_args_for_logging")


def test_only_secrets_are_hidden():
    logged = {"model_path": "m", **dict.fromkeys(SECRETS, "s3cret"), "port": 1}
    assert redact(logged, None) == {**logged, **dict.fromkeys(SECRETS, "<redacted>")}
    absent = {"model_path": "m", **dict.fromkeys(SECRETS)}
    assert redact(absent, None) == absent
