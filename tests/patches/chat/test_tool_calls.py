# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's patched parsers on recorded outputs, whole and in pieces."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, Function, Tool
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.parser.reasoning_parser import ReasoningParser

from sglang_gemma4_ext.patches.chat import reasoning, tool_calls
from tests.chat import outputs
from tests.chat.test_turn import alarm

TOOLS = [
    Tool(type="function", function=Function(name=name, parameters=schema))
    for name, schema in outputs.SCHEMAS.items()
]
REQUEST = ChatCompletionRequest(
    model="m", messages=[{"role": "user", "content": "Hi"}], tools=[t.model_dump() for t in TOOLS]
)
# A nested array whose string has a bracket: SGLang's detector never ends on it.
HOSTILE = '<|tool_call>call:search{v:[[<|"|>note 1] x<|"|>]]}<tool_call|>'
# transformers' parser differs: it keeps one thought a turn, requires \w+ for names and keys, and
# reads a control token inside a string as one.
UNKNOWN_TO_TRANSFORMERS = {
    "string: toolend",
    "string: toolend then arg",
    "key: dash",
    "calls: name dash",
    "thought: two",
    "thought: two call",
}
TWO = outputs.render_call("search", {"q": "a"}) + outputs.render_call("search", {"q": "b"})


@pytest.fixture
def patched(apply):
    apply(tool_calls.PATCH, reasoning.PATCH)


class Sent:
    """Collect what a client was sent: reasoning, text, and calls by index."""

    def __init__(self) -> None:
        self.thought = self.text = ""
        self.calls: dict[int, list[str]] = {}

    def add(self, thought: str | None, text: str | None, items: list[Any]) -> None:
        self.thought += thought or ""
        self.text += text or ""
        for item in items:
            call = self.calls.setdefault(item.tool_index, ["", ""])
            call[0] += item.name or ""
            call[1] += item.parameters

    @property
    def parsed(self) -> list[dict[str, Any]]:
        assert list(self.calls) == list(range(len(self.calls)))
        return [{"name": n, "arguments": outputs.strict_json(a)} for n, a in self.calls.values()]


def whole(output: str) -> Sent:
    """Parse an unstreamed answer as SGLang's chat serving does."""
    sent = Sent()
    thoughts = ReasoningParser("gemma4", False, request=REQUEST, tool_call_parser_active=True)
    thought, text = thoughts.parse_non_stream(output)
    calls: list[Any] = []
    parser = FunctionCallParser(TOOLS, "gemma4")
    if parser.has_tool_call(text):
        text, calls = parser.parse_non_stream(text)
    sent.add(thought, text, calls)
    return sent


def streamed(chunks: list[str]) -> Sent:
    """Parse a stream as SGLang's chat serving does."""
    sent = Sent()
    thoughts = ReasoningParser("gemma4", True, request=REQUEST, tool_call_parser_active=True)
    calls = FunctionCallParser(TOOLS, "gemma4")
    for chunk in chunks:
        thought, rest = thoughts.parse_stream_chunk(chunk)
        sent.add(thought, *calls.parse_stream_chunk(rest))
    thought, rest = thoughts.parse_stream_end()
    sent.add(thought, *calls.parse_stream_chunk(rest))
    sent.add("", *calls.parse_stream_end())
    return sent


@pytest.mark.parametrize("case", outputs.cases(), ids=lambda case: case.name)
def test_a_recorded_output_gives_the_recorded_answer(patched, case):
    choose = random.Random(case.name)
    cuts = [outputs.pieces(case.output, choose.choices(range(400), k=4)) for _ in range(5)]
    found = [whole(case.output), *map(streamed, [[case.output], list(case.output), *cuts])]
    for sent in found:
        assert sent.parsed == case.calls
        assert (sent.thought, sent.text) == (case.thought, case.text)


def test_the_call_parser_alone_shows_thoughts_without_control_tokens(patched):
    output = "<|channel>thought\nHm.\n<channel|>Ok." + TWO
    text, calls = FunctionCallParser(TOOLS, "gemma4").parse_non_stream(output)
    assert text == "Hm.\nOk."
    assert [call.tool_index for call in calls] == [0, 1]


def test_one_detector_keeps_no_state_between_answers(patched):
    parser = FunctionCallParser(TOOLS, "gemma4")
    for _ in range(2):
        _, calls = parser.parse_non_stream(TWO + "<|tool_call>call:search{q:")
        assert [(c.tool_index, json.loads(c.parameters)) for c in calls] == [
            (0, {"q": "a"}),
            (1, {"q": "b"}),
        ]


def test_a_truncated_call_in_a_stream_does_not_finish_the_turn(patched):
    parser = FunctionCallParser(TOOLS, "gemma4")
    parser.parse_stream_chunk('<|tool_call>call:search{q:<|"|>' + "long text " * 40)
    parser.parse_stream_end()
    assert parser.detector.incomplete_tool_call_indices == {0}


def test_an_undeclared_tool_has_an_index(patched):
    sent = streamed(list(outputs.render_call("undeclared", {"a": None})))
    assert sent.parsed == [{"name": "undeclared", "arguments": {"a": None}}]


@pytest.mark.parametrize("output", [HOSTILE, "<|tool_call>call:search{v:[[" + "]" * 50_000])
def test_a_hostile_text_is_parsed_quickly(patched, output):
    with alarm(1):
        FunctionCallParser(TOOLS, "gemma4").parse_non_stream(output)
        ReasoningParser("gemma4").parse_non_stream(output)


@pytest.mark.parametrize(
    "case",
    [c for c in outputs.cases() if c.kind == "grammar" and c.name not in UNKNOWN_TO_TRANSFORMERS],
    ids=lambda case: case.name,
)
def test_transformers_parses_well_formed_outputs_alike(patched, case):
    from transformers.cli.serving.utils import _RESPONSE_TEMPLATE_FALLBACKS
    from transformers.utils.chat_parsing import parse_response

    template = _RESPONSE_TEMPLATE_FALLBACKS[("gemma4",)]
    theirs = parse_response(case.output, template, prefix="<|turn>model\n")
    calls = [call["function"] for call in theirs.get("tool_calls", [])]
    ours = whole(case.output)
    assert [{"name": c["name"], "arguments": c["arguments"]} for c in calls] == ours.parsed
    assert theirs.get("content", "").strip() == ours.text.strip()
    assert theirs.get("thinking", "").strip() == ours.thought


def test_other_parsers_are_unchanged(patched):
    own = ("finish", "has_tool_call", "detect_and_parse", "parse_streaming_increment")
    for name, detector in FunctionCallParser.ToolCallParserEnum.items():
        wrapped = {n for n in own if hasattr(vars(detector).get(n), "__wrapped__")}
        assert wrapped == (set(own) if name == "gemma4" else set()), name
    hermes = FunctionCallParser(TOOLS, "hermes")
    text, calls = hermes.parse_non_stream(
        'Ok.<tool_call>{"name": "search", "arguments": {"q": "x"}}</tool_call>'
    )
    assert (text, calls[0].name, json.loads(calls[0].parameters)) == ("Ok.", "search", {"q": "x"})
    thoughts = ReasoningParser("qwen3", request=REQUEST, tool_call_parser_active=True)
    assert thoughts.parse_non_stream("<think>Hm.</think>Ok.") == ("Hm.", "Ok.")
