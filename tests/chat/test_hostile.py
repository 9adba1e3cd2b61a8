# SPDX-License-Identifier: Apache-2.0
"""Whatever a client sends as tools, declaring, reading and constraining them takes bounded time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from bench.checkpoints.tokenizer import VOCAB
from sglang_gemma4_ext.chat.declarations import declarable_tools
from sglang_gemma4_ext.chat.grammar import Calls, Function, Start, turn_grammar
from sglang_gemma4_ext.chat.tools import Tools
from tests.chat import hostile
from tests.chat.masked import control_tokens
from tests.chat.test_turn import alarm

SECONDS = 10


def handle(name: str, schema: Any) -> str:
    """Do all that a request with this tool needs; returns its grammar."""
    tool = {"type": "function", "function": {"name": name, "parameters": schema}}
    (declared,) = declarable_tools([tool])
    json.dumps(declared)
    node = Tools({name: schema}).arguments(name)
    for _ in range(3):
        assert node.takes_text in (True, False)
        node = node.member("a").element()
    function = Function(name, schema)
    grammar, _ = turn_grammar([function], control_tokens(), Calls.SOME, Start.ANSWER, VOCAB)
    return grammar


@pytest.mark.parametrize("name", hostile.HOSTILE)
def test_a_hostile_schema_is_handled_in_bounded_time_and_size(name):
    with alarm(SECONDS):
        assert len(handle("f", hostile.HOSTILE[name])) < 4_000_000


@given(hostile.words, hostile.schemas)
@settings(max_examples=300)
def test_an_odd_schema_is_handled(name, schema):
    with alarm(SECONDS):
        handle(name, schema)


def test_a_thousand_tools_are_handled():
    with alarm(SECONDS):
        functions = [Function(f"f{i}", hostile.nested(3)) for i in range(1000)]
        grammar, _ = turn_grammar(functions, control_tokens(), Calls.SOME, Start.ANSWER, VOCAB)
    assert grammar.count('"f999{"') == 1
