# SPDX-License-Identifier: Apache-2.0
"""Check that a server which loses a child says why; tests/unit/test_shutdown.py has the cases."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sglang_gemma4_ext import shutdown
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.server.reason_at_end import PATCH
from sglang_gemma4_ext.settings import Settings
from tests.patches.hooks import hook_of


def test_it_applies_only_under_our_launcher_and_for_every_model():
    assert PATCH.every_model and PATCH.required
    assert PATCH.stands_down(Context(Settings(launched=True))) is None
    assert "without our launcher" in PATCH.stands_down(Context(Settings()))


def test_the_hook_ends_the_server_with_the_recorded_reason(monkeypatch):
    def end(sentence: str, status: int) -> None:
        raise InterruptedError(sentence, status)

    monkeypatch.setattr(shutdown, "_end", end)
    monkeypatch.setattr(shutdown, "_started", True)
    monkeypatch.setattr(shutdown, "take", lambda: "out of memory")
    manager = SimpleNamespace(dump_requests_before_crash=lambda: None)
    hook = hook_of(PATCH, "replace", "running_phase_sigquit_handler")
    with pytest.raises(InterruptedError) as ended:
        hook(SimpleNamespace(tokenizer_manager=manager))
    assert ended.value.args == ("the server ended: out of memory", 1)
