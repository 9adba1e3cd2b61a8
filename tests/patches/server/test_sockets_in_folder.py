# SPDX-License-Identifier: Apache-2.0
"""Check where sockets_in_folder applies; tests/unit/test_run_folder.py checks its hook."""

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.server.sockets_in_folder import PATCH
from sglang_gemma4_ext.settings import Settings


def test_it_applies_only_under_our_launcher_and_for_every_model():
    assert PATCH.every_model and PATCH.required
    assert PATCH.stands_down(Context(Settings(launched=True))) is None
    assert "without our launcher" in PATCH.stands_down(Context(Settings()))
