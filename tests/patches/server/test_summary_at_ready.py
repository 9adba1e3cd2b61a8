# SPDX-License-Identifier: Apache-2.0
"""Check that summary and request are the last lines of a start, under both commands."""

from types import SimpleNamespace

from sglang_gemma4_ext import shutdown
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.launcher import summary
from sglang_gemma4_ext.patches.server.summary_at_ready import PATCH
from sglang_gemma4_ext.settings import Settings
from tests.patches.hooks import hook_of


def test_it_applies_under_both_commands():
    for launched in (True, False):
        assert PATCH.stands_down(Context(Settings(launched=launched))) is None


def test_the_text_is_printed_when_ready_and_sglangs_own_callback_runs(monkeypatch, capsys):
    monkeypatch.setattr(summary, "summarize", lambda args: "SUMMARY")
    monkeypatch.setattr(summary, "example_request", lambda args: "REQUEST")
    monkeypatch.setattr(shutdown, "_started", False)
    told: list[str] = []
    monkeypatch.setattr(summary, "_describe_at_root", told.append)
    announce, theirs = hook_of(PATCH, "before", "launch_server"), []
    args = SimpleNamespace(url=lambda: "http://host:1")
    _args, kwargs = announce(args, launch_callback=lambda: theirs.append(1))
    assert capsys.readouterr().err == ""
    kwargs["launch_callback"]()
    assert capsys.readouterr().err == "SUMMARY\nREQUEST\n"
    assert theirs == [1] and shutdown._started and told == ["http://host:1"]
