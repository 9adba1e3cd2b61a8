# SPDX-License-Identifier: Apache-2.0
"""Check that a failed scheduler leaves its reason; tests/unit/test_shutdown.py has the cases."""

from __future__ import annotations

import pytest

from sglang_gemma4_ext import shutdown
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.server.scheduler_reason import PATCH
from sglang_gemma4_ext.settings import Settings
from tests.patches.hooks import hook_of


def test_it_applies_only_under_our_launcher_and_for_every_model():
    assert PATCH.every_model and PATCH.required
    assert PATCH.stands_down(Context(Settings(launched=True))) is None
    assert "without our launcher" in PATCH.stands_down(Context(Settings()))


def test_the_hook_records_the_reason_and_raises_it(monkeypatch):
    recorded = []
    monkeypatch.setattr(shutdown, "record", recorded.append)

    def fail(scheduler: object) -> None:
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        hook_of(PATCH, "around", "__init__")(fail, object())
    assert [str(error) for error in recorded] == ["no room"]
