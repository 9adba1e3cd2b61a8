# SPDX-License-Identifier: Apache-2.0
"""Check the parsers that a server gets without a flag, and the summary's line on them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_gemma4_ext.chat.template_files import read_template
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.doctor import render, report
from sglang_gemma4_ext.launcher.summary import describe_chat
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.chat import parsers_by_default
from sglang_gemma4_ext.settings import Settings, SettingsError
from tests.patches.chat.engine import template
from tests.patches.hooks import hook_of

choose = hook_of(parsers_by_default.PATCH, "before", "handle_platform_defaults")
BOTH = {"tool_call_parser": "gemma4", "reasoning_parser": "gemma4"}


@pytest.fixture
def chosen(monkeypatch):
    """chosen(arguments): what the hook declares for these server arguments."""
    from sglang.srt.arg_groups import overrides

    declared: dict[str, str] = {}
    monkeypatch.setattr(overrides, "resolving_view", lambda args: args)
    monkeypatch.setattr(
        overrides, "declare_resolution", lambda args, source, **found: declared.update(found)
    )

    def call(**fields):
        declared.clear()
        unset = dict.fromkeys(
            ("tool_call_parser", "reasoning_parser", "tokenizer_path", "revision", "chat_template")
        )
        choose(SimpleNamespace(**(unset | fields)))
        return dict(declared)

    return call


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "chat_template.jinja").write_text(template("2026-07-15_large"))
    return str(tmp_path)


def test_both_parsers_are_chosen_for_a_template_with_tools(chosen, folder):
    assert chosen(model_path=folder) == BOTH


def test_the_users_flags_take_precedence(chosen, folder):
    assert chosen(model_path=folder, tool_call_parser="hermes") == {"reasoning_parser": "gemma4"}
    assert chosen(model_path=folder, tool_call_parser="a", reasoning_parser="b") == {}


def test_a_template_without_tools_gets_no_parser(chosen, folder, tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert chosen(model_path=folder) == {}


def test_a_template_given_by_flag_is_read(chosen, folder, tmp_path):
    plain = tmp_path / "plain.jinja"
    plain.write_text("{{ messages }}")
    assert chosen(model_path=folder, chat_template=str(plain)) == {}
    assert chosen(model_path=folder, chat_template="chatml") == {}


def test_the_setting_turns_it_off(chosen, folder, monkeypatch):
    monkeypatch.setenv("SGLANG_GEMMA4_EXT_CHAT_PARSERS", "off")
    assert chosen(model_path=folder) == {}


def test_the_setting_travels_in_the_environment():
    env: dict[str, str] = {}
    Settings(chat_parsers="off").export(env)
    assert Settings.from_env(env).chat_parsers == "off"
    with pytest.raises(SettingsError, match="--gemma4-chat-parsers must be one of auto, off"):
        Settings(chat_parsers="on")


def test_the_doctor_names_the_setting_that_turns_it_off():
    gpu = Gpu("none", "", None)
    off = Context(Settings(chat_parsers="off"), None, gpu, "0.5.23")
    assert parsers_by_default.PATCH.stands_down(off) == "by --gemma4-chat-parsers off"
    assert parsers_by_default.PATCH.stands_down(Context(Settings(), None, gpu, "0.5.23")) is None


TOOLS = "the chat template declares tools; --gemma4-chat-parsers off turns it off"
NONE = {"tool_call_parser": None, "reasoning_parser": None}
HERMES = {"tool_call_parser": "hermes", "reasoning_parser": None}


@pytest.mark.parametrize(
    ("given", "resolved", "setting", "line"),
    [
        (NONE, BOTH, "auto", f"tool calls and thoughts parsed by gemma4 ({TOOLS})"),
        (
            HERMES,
            BOTH | {"tool_call_parser": "hermes"},
            "auto",
            "tool calls parsed by hermes (by --tool-call-parser), "
            f"thoughts parsed by gemma4 ({TOOLS})",
        ),
        (NONE, NONE, "off", "tool calls and thoughts left in the text (--gemma4-chat-parsers off)"),
    ],
)
def test_the_summary_says_who_parses_and_why(folder, given, resolved, setting, line):
    model = {"model_path": folder, "tokenizer_path": None, "revision": None, "chat_template": None}
    cfg = SimpleNamespace(**model, **resolved)
    found = describe_chat(SimpleNamespace(**given), cfg, Settings(chat_parsers=setting))
    assert found == line


def doctor_on(folder, setting="auto"):
    config = {"architectures": ["Gemma4ForCausalLM"], "model_type": "gemma4_text"}
    Path(folder, "config.json").write_text(json.dumps(config))
    Path(folder, "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    model = read_model_info(folder)
    ctx = Context(Settings(chat_parsers=setting), model, Gpu("none", "", None), "0.5.23")
    return render(report([], ctx))


def test_the_doctor_says_which_parsers_a_checkpoint_gets_and_why(folder):
    assert f"chat      tool calls and thoughts parsed by gemma4 ({TOOLS})\n" in doctor_on(folder)
    off = doctor_on(folder, "off")
    assert "thoughts left in the text (--gemma4-chat-parsers off)" in off
    Path(folder, "chat_template.jinja").write_text(template("earlier"))
    assert f"\n{'':<10}the chat template of this checkpoint is older" in doctor_on(folder)
    Path(folder, "chat_template.jinja").write_text("{{ messages }}")
    assert "left in the text (the chat template declares no tools)" in doctor_on(folder)
    Path(folder, "chat_template.jinja").unlink()
    assert "left in the text (no chat template was found)" in doctor_on(folder)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("chat_template.jinja", "T", "T"),
        ("chat_template.json", json.dumps({"chat_template": "T"}), "T"),
        ("tokenizer_config.json", json.dumps({"chat_template": "T"}), "T"),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"template": "T"}]}), "T"),
        ("tokenizer_config.json", json.dumps({"chat_template": 7}), None),
        ("tokenizer_config.json", "not JSON", None),
        ("config.json", "{}", None),
    ],
)
def test_a_template_is_found_in_each_place_where_checkpoints_keep_it(
    tmp_path, name, content, found
):
    (tmp_path / name).write_text(content)
    assert read_template(str(tmp_path)) == found
