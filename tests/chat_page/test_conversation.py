# SPDX-License-Identifier: Apache-2.0
"""Check the page without a browser: conversations over SGLang's serving layer, refusals."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from bench.processes import free_port
from sglang_gemma4_ext.chat_page import __main__ as command
from sglang_gemma4_ext.chat_page.conversation import Conversation, Options, Part, read_tools
from sglang_gemma4_ext.chat_page.page import answer, shown
from tests.patches.chat.answers import PARSING
from tests.patches.chat.client import SEARCH, THOUGHT, TOOLS, Scripted
from tests.patches.chat.serving_layer import serving

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    with serving(*PARSING.values()) as running:
        yield running


def asked(scripted: Scripted, conversation: Conversation, output: str, **options) -> list[Part]:
    """Return the parts that one answer adds."""
    before = len(conversation.parts)
    scripted.prepare(output)
    for _ in conversation.answer(scripted.client, scripted.model, Options(**options)):
        pass
    return conversation.parts[before:]


def test_a_thought_text_calls_their_results_and_an_answer(scripted):
    conversation = Conversation()
    conversation.say("Hi")
    parts = asked(
        scripted, conversation, f"{THOUGHT}Look.{SEARCH}{SEARCH}", tools=TOOLS, thinks=True
    )
    assert parts == [
        Part("thought", "Hm."), Part("text", "Look."),
        Part("call", '{"q": "x"}', "search"), Part("call", '{"q": "x"}', "search"),
    ]  # fmt: skip
    assert conversation.history[1]["reasoning_content"] == "Hm."
    for result in ("one", "two"):
        assert conversation.open_call["function"]["name"] == "search"
        conversation.say(result)
    assert conversation.open_call is None
    assert [m["content"] for m in conversation.history[2:]] == ["one", "two"]
    (part,) = asked(scripted, conversation, "<channel|>Found.", tools=TOOLS, thinks=True)
    assert part == Part("text", "Found.")
    roles = [message["role"] for message in conversation.history]
    assert roles == ["user", "assistant", "tool", "tool", "assistant"]


def test_an_answer_that_is_cut_says_so(scripted):
    conversation = Conversation()
    conversation.say("Hi")
    text, note = asked(scripted, conversation, "A long answer", most_tokens=6)
    assert text.text == "A long" and note == Part("note", "The answer was cut after 6 tokens.")


def test_a_refusal_is_shown_and_the_conversation_goes_on(scripted):
    conversation = Conversation()
    conversation.say("Hi")
    (note,) = asked(scripted, conversation, "", tools=[{"type": "function"}])
    assert note.kind == "note" and note.text.startswith("The server refused: ")
    assert asked(scripted, conversation, "Yes.") == [Part("text", "Yes.")]


def test_a_server_that_is_gone_is_one_sentence():
    conversation = Conversation()
    conversation.say("Hi")
    gone = openai.OpenAI(base_url=f"http://127.0.0.1:{free_port()}/v1", api_key="x", max_retries=0)
    for _ in conversation.answer(gone, "m", Options()):
        pass
    assert conversation.parts[-1] == Part("note", "The server did not answer: Connection error.")


def test_thoughts_and_calls_are_folded_once_they_are_complete():
    parts = [
        Part("question", "Hi"), Part("thought", "Hm.", is_open=True), Part("text", "**So**"),
        Part("call", '{"q":"x"}', "search"), Part("result", "y", "search"), Part("note", "<cut>"),
    ]  # fmt: skip
    messages = shown(parts)
    assert [message["role"] for message in messages] == [
        "user", "assistant", "assistant", "assistant", "user", "assistant",
    ]  # fmt: skip
    folds = [message.get("metadata") for message in messages]
    assert folds == [
        None, {"title": "Thought", "status": "pending"}, None,
        {"title": "Calls search", "status": "done"},
        {"title": "Result of search", "status": "done"}, None,
    ]  # fmt: skip
    assert messages[3]["content"] == '```json\n{\n  "q": "x"\n}\n```'
    assert messages[5]["content"] == "*&lt;cut&gt;*"


def test_tools_may_be_functions_alone():
    function = TOOLS[0]["function"]
    assert read_tools(json.dumps([function])) == [TOOLS[0]] == read_tools(json.dumps([TOOLS[0]]))
    assert read_tools(" ") == []


@pytest.mark.parametrize("tools", ["{", '{"name": "f"}', "[1]"])
def test_tools_that_cannot_be_read_are_a_note_and_nothing_is_sent(tools):
    conversation = Conversation()
    (messages,) = answer(None, "m", "Hi", conversation, tools, Options())
    assert re.match(r"\*the tools (are not JSON|must be a JSON list)", messages[0]["content"])
    assert conversation.history == []


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ("127.0.0.1:30000", "http://127.0.0.1:30000"),
        ("https://host/v1/", "https://host"),
        ("http://host:1", "http://host:1"),
    ],
)
def test_a_servers_address_may_be_written_in_several_ways(server, address):
    assert command.address_of(server) == address


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, {}, "wants its API key: add --api-key"),
        (404, {"detail": "Not Found"}, "is no OpenAI-compatible server"),
        (200, {"object": "list", "data": []}, "lists no model"),
    ],
)
def test_what_is_wrong_with_a_server_is_one_sentence(monkeypatch, status, body, said):
    def respond(self, request, **_):
        return httpx.Response(status, json=body, request=request)

    monkeypatch.setattr(httpx.Client, "send", respond)
    with pytest.raises(command.Refusal, match=said):
        command.connect("http://host", "x")


def test_without_a_server_or_gradio_the_command_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else 1)
    assert command.main([]) == 1
    assert "pip install 'sglang-gemma4-ext[chat]'" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: 1)
    assert command.main(["--server", f"127.0.0.1:{free_port()}"]) == 1
    assert "start one with make serve" in capsys.readouterr().err


def test_the_pages_pins_are_those_of_the_server_but_for_what_gradio_caps():
    def pins(name: str) -> dict[str, str]:
        lines = (ROOT / name).read_text().splitlines()
        return dict(line.split("==") for line in lines)

    page, server = pins("requirements-chat.lock"), pins("requirements.lock")
    assert {"gradio", "openai"} <= set(page) and "gradio" not in server
    differing = {name for name in set(page) & set(server) if page[name] != server[name]}
    assert differing == {"pillow", "tomlkit"}
