# SPDX-License-Identifier: Apache-2.0
"""Test required calls on SGLang's serving layer and its XGrammar backend, with another engine."""

from __future__ import annotations

import json

import jsonschema
import pytest

from sglang_gemma4_ext.patches.chat import native_tool_grammar
from tests.chat.shapes import USER, WEATHER, function
from tests.chat.test_grammar import SCHEMAS, call, read

CITY = WEATHER["function"]["parameters"]
TOOLS = [WEATHER, function(description="d", parameters=SCHEMAS["nested"])]
NAMED = {"type": "function", "function": {"name": "f"}}
WANTED = {"weather": CITY, "f": SCHEMAS["nested"]}
ALWAYS = ("reasoning_parser", "tool_call_parser")


@pytest.fixture
def served(apply, layer):
    apply(native_tool_grammar.PATCH)
    return layer(**dict.fromkeys(ALWAYS, "gemma4"))


def body(thinks=False, **more):
    made = {"messages": [USER], "tools": TOOLS, "max_tokens": 4000, **more}
    return {**made, "chat_template_kwargs": {"enable_thinking": thinks}}


@pytest.mark.parametrize("thinks", [False, True], ids=["answer", "thinking"])
@pytest.mark.parametrize("says", ["Hello.", "<|channel>thought\nHm.<channel|>No."])
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_required_call_is_native_and_follows_its_schema(served, choice, says, thinks):
    served.say(says)
    for seed in range(4):
        served.engine.seed = seed
        assert served.post(body(thinks, tool_choice=choice)).status_code == 200
        thought, text, calls = read(served.engine.written)
        assert text == ""
        assert thinks or not thought
        if thinks and says.startswith("<"):
            assert thought.startswith("Hm.")
        assert calls
        for name, arguments in calls:
            jsonschema.validate(arguments, WANTED[name])
            assert choice == "required" or name == "f"


def test_sglang_parses_a_required_call(served):
    served.say(call("weather", 'city:"Oslo"'))
    for stream in (False, True):
        answer = served.post(body(tool_choice="required", parallel_tool_calls=False, stream=stream))
        assert answer.status_code == 200
        if not stream:
            (made,) = answer.json()["choices"][0]["message"]["tool_calls"]
            assert made["function"]["name"] == "weather"
            assert json.loads(made["function"]["arguments"]) == {"city": "Oslo"}
        else:
            assert "weather" in answer.text
            assert "<|tool_call>" not in answer.text


def test_parallel_tool_calls_false_allows_one_call(served):
    two = call("weather", 'city:"A"') + call("weather", 'city:"B"')
    for choice, says in (("required", two), ("auto", "Hi." + two)):
        served.say(says)
        served.post(body(tool_choice=choice, parallel_tool_calls=False))
        assert len(read(served.engine.written)[2]) == 1


def test_strict_constrains_its_tool_and_nothing_else(served):
    strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    says = "Hi." + call("weather", "town:1")
    served.say(says)
    served.post(body())
    assert served.engine.written == says
    served.post(body(tools=[strict, TOOLS[1]]))
    assert served.engine.written.startswith("Hi.<|tool_call>call:weather{city:")
    served.say("Hi.")
    served.post(body(tools=[strict]))
    assert served.engine.requests[-1].sampling_params["ebnf_full_assistant"] is True


def test_auto_and_none_are_not_constrained(served):
    for choice in ("auto", "none"):
        served.post(body(tool_choice=choice))
        assert not served.engine.requests[-1].sampling_params.get("ebnf")


def test_a_required_call_excludes_another_format(served):
    answer = served.post(body(tool_choice="required", response_format={"type": "json_object"}))
    assert answer.status_code == 400
    assert "leave one of them out" in answer.text


@pytest.mark.parametrize("name", ["\x00", "", "a b", "call:f{", "x" * 257])
def test_a_tool_whose_name_no_call_can_hold_is_refused(served, name):
    """Such a call would leave a model nothing to write, or could not be read."""
    odd = function(name=name)
    for fields in ({"tool_choice": "required"}, {"parallel_tool_calls": False}):
        answer = served.post(body(tools=[odd], **fields))
        assert answer.status_code == 400
        assert "give it letters, digits, _, -, ., / or :" in answer.text
    assert served.post(body(tools=[odd])).status_code == 200


def test_without_xgrammar_nothing_changes(served):
    served.engine.config["grammar_backend"] = "llguidance"
    served.engine.grammar_of = lambda request: None
    served.post(body(tool_choice="required"))
    params = served.engine.requests[-1].sampling_params
    assert params.get("json_schema")
    assert not params.get("ebnf")


def test_ignored_schema_keywords_are_logged_once(served, caplog):
    odd = function(parameters={"type": "object", "properties": {"n": {"multipleOf": 3}}})
    for _ in range(2):
        served.post(body(tools=[odd], tool_choice="required"))
    said = [r.getMessage() for r in caplog.records if "does not enforce" in r.getMessage()]
    assert said == ["The grammar of tool f does not enforce: multipleOf"]
