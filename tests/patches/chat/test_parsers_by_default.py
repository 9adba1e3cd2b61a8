# SPDX-License-Identifier: Apache-2.0
"""The parsers of a chat that the user did not choose."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.chat import parsers_by_default
from sglang_gemma4_ext.settings import Settings
from tests.patches.hooks import hook_of

BOTH = {"tool_call_parser": "gemma4", "reasoning_parser": "gemma4"}


@pytest.fixture
def chosen(monkeypatch):
    """chosen(tools, policy, **given): what the patch declares for such a server."""
    from sglang.srt.arg_groups import overrides

    def run(tools: bool = True, policy: str = "auto", **given: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        settings = Settings.from_env({}) if policy == "auto" else Settings(chat_parsers=policy)
        monkeypatch.setattr(parsers_by_default.Settings, "from_env", lambda: settings)
        monkeypatch.setattr(overrides, "resolving_view", lambda args: args)
        monkeypatch.setattr(overrides, "declare_resolution", lambda a, s, **kw: found.update(kw))
        monkeypatch.setattr(parsers_by_default, "read_template", lambda *args: "a template")
        monkeypatch.setattr(parsers_by_default, "declares_tools", lambda template: tools)
        open_flags = dict.fromkeys(
            ("tool_call_parser", "reasoning_parser", "tokenizer_path", "revision", "chat_template")
        )
        args = SimpleNamespace(**{**open_flags, "model_path": "somewhere", **given})
        hook_of(parsers_by_default.PATCH, "before", "handle_platform_defaults")(args)
        return found

    return run


def test_both_parsers_are_gemma4s(chosen):
    assert chosen() == BOTH


@pytest.mark.parametrize("flag", BOTH)
def test_the_users_parser_stays(chosen, flag):
    assert chosen(**{flag: "hermes"}) == {name: "gemma4" for name in BOTH if name != flag}


def test_a_template_without_tools_has_no_parsers(chosen):
    assert chosen(tools=False) == {}


def test_off_changes_nothing(chosen):
    assert chosen(policy="off") == {}
    off = Context(Settings(chat_parsers="off"))
    assert "--gemma4-chat-parsers off" in parsers_by_default.PATCH.stands_down(off)
