# SPDX-License-Identifier: Apache-2.0
"""Where sockets_in_folder applies; tests/unit shows what its hook does."""

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.server.sockets_in_folder import PATCH
from sglang_gemma4_ext.settings import Settings


def test_it_applies_under_our_launcher_alone_and_for_every_model():
    assert PATCH.every_model and PATCH.required
    assert PATCH.stands_down(Context(Settings(launched=True))) is None
    assert "without our launcher" in PATCH.stands_down(Context(Settings()))
