# SPDX-License-Identifier: Apache-2.0
"""Check structured answers of a thinking model under the grammars of SGLang's backends."""

from __future__ import annotations

import json

import jsonschema
import pytest

from sglang_gemma4_ext.patches.chat import answers_always_constrained, json_without_loops
from tests.chat.shapes import OSLO, SUNNY, USER, WEATHER, calling

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5}, "n": {"enum": [1, 2]}},
    "required": ["city", "n"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
THINKS = {"chat_template_kwargs": {"enable_thinking": True}}


@pytest.fixture
def served(apply, layer):
    apply(answers_always_constrained.PATCH, json_without_loops.PATCH)
    return layer(reasoning_parser="gemma4")


def body(**more):
    return {"messages": [USER], "max_tokens": 500, **THINKS, **more}


def answer_of(written: str) -> str:
    return written.rpartition("<channel|>")[2]


@pytest.mark.parametrize("says", ["Hello.", "", "<|channel>thought\nHm {.<channel|>No."])
def test_json_is_constrained_with_and_without_a_thought(served, says):
    served.say(says)
    for seed in range(6):
        served.engine.seed = seed
        assert served.post(body(response_format=FORMAT)).status_code == 200
        jsonschema.validate(json.loads(answer_of(served.engine.written)), SCHEMA)
    assert ("Hm {." in served.engine.written) == says.startswith("<")


def test_json_is_constrained_after_a_thought_that_the_prompt_opened(served):
    served.say("Hm.<channel|>")
    messages = [USER, calling(OSLO), SUNNY]
    served.post(body(messages=messages, tools=[WEATHER], response_format=FORMAT))
    assert served.engine.prompt.endswith("<|channel>thought\n")
    assert served.engine.written.startswith("Hm.<channel|>{")
    jsonschema.validate(json.loads(answer_of(served.engine.written)), SCHEMA)


@pytest.mark.parametrize("kind", [{"regex": "a{3}b"}, {"ebnf": 'root ::= "aaab"'}])
def test_regex_and_ebnf_are_constrained(served, kind):
    served.say("Hello.")
    served.post(body(**kind))
    assert answer_of(served.engine.written) == "aaab"


def test_without_thinking_no_thought_is_allowed(served):
    served.say("<|channel>thought\nHm.<channel|>")
    served.post({"messages": [USER], "max_tokens": 500, "response_format": FORMAT})
    jsonschema.validate(json.loads(served.engine.written), SCHEMA)


def test_other_grammars_keep_sglangs_wrapper(served):
    from sglang.srt.constrained.reasoner_grammar_backend import ReasonerGrammarObject

    backend = served.engine.grammar_backend()
    key = ("structural_tag", '{"format": {"type": "const_string", "value": "a"}}')
    made = backend.get_request_grammar_key(key, input_ids=[], thinking_budget=None)
    assert made == key
    assert isinstance(backend._init_value_dispatch(key, True), ReasonerGrammarObject)
