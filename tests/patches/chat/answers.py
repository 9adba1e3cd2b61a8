# SPDX-License-Identifier: Apache-2.0
"""State what a client must get for each output of the model, on any patched server."""

from __future__ import annotations

import pytest

from sglang_gemma4_ext.patches.chat import literals_by_id, reasoning, tool_calls
from tests.chat.outputs import render_call
from tests.chat.tokens import encode, spell
from tests.patches.chat.client import QUESTION, SEARCH, SEARCHED, THINKING, THOUGHT, Scripted

# What reads an answer.
PARSING = {patch.name: patch for patch in (tool_calls.PATCH, reasoning.PATCH, literals_by_id.PATCH)}
WEATHER = render_call("get_weather", {"city": "Oslo", "days": 2})
ASKED = ("get_weather", {"city": "Oslo", "days": 2})
# A string that ends at the real delimiter alone, and text about control tokens.
IN_STRING = 'a<|"|>,b:<|"|><tool_call|><|turn>c'
QUOTED = [
    *encode('<|tool_call>call:search{q:<|"|>'),
    *spell(IN_STRING),
    *encode('<|"|>}<tool_call|>'),
]
ABOUT_TOKENS = "<turn|> ends a turn, <|tool_call>call:f{}<tool_call|> calls."
NO_TOOLS = {"tools": None}
AS_TEXT = {"separate_reasoning": False}
# name -> (output, request fields, (finish reason, text, thought, calls), patches it needs)
ANSWERS = {
    "call of the second tool": (SEARCH, {}, ("tool_calls", "", "", [SEARCHED]), {"tool_calls"}),
    "two calls of one tool": (
        SEARCH * 2,
        {},
        ("tool_calls", "", "", [SEARCHED] * 2),
        {"tool_calls"},
    ),
    "five calls": (
        WEATHER + SEARCH * 3 + WEATHER,
        {},
        ("tool_calls", "", "", [ASKED, *[SEARCHED] * 3, ASKED]),
        {"tool_calls"},
    ),
    "text around calls": (
        f"A{SEARCH}B{WEATHER}C",
        {},
        ("tool_calls", "ABC", "", [SEARCHED, ASKED]),
        {"tool_calls"},
    ),
    "exact values": (
        render_call("search", {"q": None, "n": [1e-07, 123456789012345678901], "s": "é\n<|"}),
        {},
        (
            "tool_calls",
            "",
            "",
            [("search", {"q": None, "n": [1e-07, 123456789012345678901], "s": "é\n<|"})],
        ),
        {"tool_calls"},
    ),
    "thought, text and call": (
        f"{THOUGHT}Ok.{SEARCH}",
        THINKING,
        ("tool_calls", "Ok.", "Hm.", [SEARCHED]),
        {"tool_calls"},
    ),
    "call without a thought, thinking on": (
        SEARCH,
        THINKING,
        ("tool_calls", "", "", [SEARCHED]),
        {"reasoning", "tool_calls"},
    ),
    "answer without a thought, thinking on": (
        "Yes.",
        THINKING,
        ("stop", "Yes.", "", []),
        {"reasoning"},
    ),
    "two thoughts": (
        f"{THOUGHT}Mid.{THOUGHT}End.",
        THINKING,
        ("stop", "Mid.End.", "Hm.\nHm.", []),
        {"reasoning"},
    ),
    "empty thought": (
        "<|channel>thought\n<channel|>Hi.",
        {},
        ("stop", "Hi.", "", []),
        set(),
    ),
    "thought shown": (
        f"{THOUGHT}Ok.",
        AS_TEXT | NO_TOOLS,
        ("stop", "Hm.\nOk.", "", []),
        {"reasoning"},
    ),
    "thought shown beside a call": (
        f"{THOUGHT}Ok.{SEARCH}",
        AS_TEXT,
        ("tool_calls", "Hm.\nOk.", "", [SEARCHED]),
        set(),
    ),
    "call without tools": (
        f"Ok.{SEARCH}",
        NO_TOOLS,
        ("stop", 'Ok.call:search{q:"x"}', "", []),
        {"reasoning"},
    ),
    "call with tool_choice none": (
        f"Ok.{SEARCH}",
        {"tool_choice": "none"},
        ("stop", 'Ok.call:search{q:"x"}', "", []),
        {"reasoning"},
    ),
    "delimiters spelled in a string": (
        QUOTED,
        {},
        ("tool_calls", "", "", [("search", {"q": IN_STRING})]),
        {"literals_by_id", "tool_calls"},
    ),
    "control tokens spelled in text": (
        spell(ABOUT_TOKENS),
        {},
        ("stop", ABOUT_TOKENS, "", []),
        {"literals_by_id", "tool_calls"},
    ),
    "control tokens spelled without tools": (
        spell(ABOUT_TOKENS),
        NO_TOOLS,
        ("stop", ABOUT_TOKENS, "", []),
        {"literals_by_id"},
    ),
    "control tokens spelled in a thought": (
        [
            *encode("<|channel>thought\n"),
            *spell("<channel|>?"),
            *encode("\n<channel|>Ok."),
            *QUOTED,
        ],
        THINKING,
        ("tool_calls", "Ok.", "<channel|>?", [("search", {"q": IN_STRING})]),
        {"literals_by_id", "tool_calls"},
    ),
    "end of the turn": (
        f"{SEARCH}<|tool_response>response:search{{value:1}}<tool_response|>Made up.",
        {},
        ("tool_calls", "", "", [SEARCHED]),
        {"tool_calls"},
    ),
}


@pytest.mark.parametrize("stream", [False, True], ids=["create", "stream"])
@pytest.mark.parametrize("name", ANSWERS)
def test_a_client_gets_the_answer(scripted: Scripted, name: str, stream: bool):
    output, fields, expected, _ = ANSWERS[name]
    found = given(scripted, output, fields, stream)
    assert found == expected, found


def given(scripted: Scripted, output: str, fields: dict, stream: bool) -> tuple:
    reply = scripted.say(output, stream=stream, **fields)
    return reply.finish, reply.text, reply.thought, reply.calls


@pytest.mark.parametrize("stream", [False, True], ids=["create", "stream"])
def test_a_loop_of_call_result_and_answer(scripted: Scripted, stream: bool):
    """With thinking on, the prompt opens a thought behind the result; the model continues it."""
    asked = scripted.say(THOUGHT + SEARCH, stream=stream, **THINKING)
    assert asked.calls == [SEARCHED]
    (call,) = asked.message.tool_calls
    history = [
        *QUESTION,
        {
            "role": "assistant",
            "content": asked.message.content,
            "reasoning_content": asked.thought,
            "tool_calls": [call.model_dump(include={"id", "type", "function"})],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "found"},
    ]
    answer = scripted.say("I see.\n<channel|>Found.", stream=stream, messages=history, **THINKING)
    assert (answer.thought, answer.text, answer.calls) == ("I see.", "Found.", [])
    again = scripted.say("I see." + SEARCH, stream=stream, messages=history, **THINKING)
    assert (again.thought, again.text, again.calls) == ("I see.", "", [SEARCHED])


def test_a_call_that_max_tokens_cuts_off_is_dropped(scripted: Scripted):
    reply = scripted.say(f"Ok.{SEARCH}", stream=False, max_tokens=20)
    assert (reply.finish, reply.text, reply.calls) == ("length", "Ok.", [])


def test_long_arguments_stream_in_pieces(scripted: Scripted):
    output = render_call("search", {"q": "line of text " * 60})
    parts = [call for delta in scripted.deltas(output) for call in delta.tool_calls or []]
    assert parts[0].function.name == "search" and len(parts) > 300
    assert {part.index for part in parts} == {0}
