# SPDX-License-Identifier: Apache-2.0
"""Test grammars of calls: what they accept, and random turns under their mask."""

from __future__ import annotations

import json

import jsonschema
import pytest

from bench.checkpoints.tokenizer import VOCAB
from sglang_gemma4_ext.chat import turn as reading
from sglang_gemma4_ext.chat.events import Call, Text, Thought
from sglang_gemma4_ext.chat.grammar import (
    Calls,
    Function,
    Start,
    control_tokens_in,
    start_of,
    turn_grammar,
)
from sglang_gemma4_ext.chat.tools import Tools
from tests.chat.masked import accepts, control_tokens, generate, made_tokenizer

Q = '<|"|>'
TREE = {
    "type": "object",
    "properties": {
        "v": {"type": "integer"},
        "left": {"anyOf": [{"$ref": "#/$defs/T"}, {"type": "null"}]},
    },
    "required": ["v"],
    "additionalProperties": False,
}
SCHEMAS = {
    "strings": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
    "all_kinds": {
        "type": "object",
        "properties": {
            "Zed": {"type": "boolean"},
            "a": {"type": "string"},
            "n": {"type": "integer", "minimum": -3, "maximum": 50},
            "x": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "e": {"enum": ["a", "b c", None, 3, True, {"k": ["v"]}]},
            "z": {"type": "null"},
        },
        "required": ["e", "n"],
    },
    "nested": {
        "type": "object",
        "properties": {
            "rows": {
                "type": "array",
                "items": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
                "minItems": 1,
                "maxItems": 3,
            },
            "pair": {
                "type": "array",
                "prefixItems": [{"type": "string"}, {"type": "integer"}],
                "items": False,
                "minItems": 2,
            },
            "of": {
                "type": "object",
                "properties": {"x": {"type": ["integer", "null"]}},
                "required": ["x"],
                "additionalProperties": False,
            },
            "map": {"type": "object", "additionalProperties": {"type": "boolean"}},
        },
        "required": ["rows", "of"],
    },
    "recursive": {
        "type": "object",
        "properties": {"t": {"$ref": "#/$defs/T"}},
        "required": ["t"],
        "$defs": {"T": TREE},
    },
    "restricted": {
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
            "short": {"type": "string", "minLength": 2, "maxLength": 4},
            "long": {"type": "string", "minLength": 3},
        },
        "required": ["id", "short", "long"],
    },
    "unions": {
        "type": "object",
        "properties": {"u": {"oneOf": [{"type": "string"}, {"type": "array"}]}},
        "required": ["u"],
        "anyOf": [
            {"properties": {"kind": {"const": "a"}}, "required": ["kind"]},
            {
                "properties": {"kind": {"const": "b"}, "n": {"type": "integer"}},
                "required": ["kind", "n"],
            },
        ],
    },
    "closed": {"type": "object", "properties": {}},
    "free": {"type": "object"},
}


def grammar(functions, calls=Calls.SOME, start=Start.ANSWER):
    return turn_grammar(functions, control_tokens(), calls, start, VOCAB)[0]


def call(name, arguments=""):
    return f"<|tool_call>call:{name}{{{arguments}}}<tool_call|>".replace('"', Q)


def read(text, start=reading.Start.CONTENT):
    """Return what a client gets: thought, text, and calls by name and arguments."""
    turn = reading.Turn(Tools(), start)
    events = turn.feed(text) + turn.finish()
    calls: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, Call):
            made = calls.setdefault(event.index, [event.name or "", ""])
            made[1] += event.arguments
    texts = "".join(event.text for event in events if isinstance(event, Text))
    thought = "".join(event.text for event in events if isinstance(event, Thought))
    return thought, texts, [(name, json.loads(arguments)) for name, arguments in calls.values()]


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("start", Start)
def test_random_turns_are_calls_that_follow_the_schema(name, start):
    made = grammar([Function("f-1.a", SCHEMAS[name]), Function("g")], start=start)
    ended = 0
    for seed in range(25):
        text = generate(made, seed)
        if text is None:
            continue
        ended += 1
        opened = start is Start.IN_THOUGHT
        _, texts, calls = read(text, reading.Start.THOUGHT if opened else reading.Start.CONTENT)
        assert calls, text
        assert texts == "", text
        for called, arguments in calls:
            jsonschema.validate(
                arguments, SCHEMAS[name] if called == "f-1.a" else {"maxProperties": 0}
            )
    assert ended >= 15


@pytest.mark.parametrize(
    ("calls", "least", "most"),
    [(Calls.SOME, 1, 99), (Calls.ONE, 1, 1), (Calls.AT_MOST_ONE, 0, 1), (Calls.ANY, 0, 99)],
)
def test_the_number_of_calls_is_as_requested(calls, least, most):
    made = grammar([Function("f", SCHEMAS["strings"]), Function("g")], calls, Start.MAY_THINK)
    turns = [read(text) for seed in range(40) if (text := generate(made, seed)) is not None]
    counts = [len(found) for _, _, found in turns]
    assert len(turns) >= 30
    assert least <= min(counts)
    assert max(counts) <= most
    if most > 1:
        assert max(counts) > 1


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        (call("f", "q:\"a, b} 'c'\""), True),
        (call("f", 'q:""') + call("g"), True),
        ("<|channel>thought\nHm.\n<channel|>" + call("g"), True),
        ("Hello." + call("g"), False),
        ("<|channel>thought\nHm.\n<channel|>", False),
        ("", False),
        (call("h"), False),
        (call("f"), False),
        (call("f", "q:1"), False),
        ("<|tool_call>call:f{q:'a'}<tool_call|>", False),
        ("<|tool_call>call:f{q:a" + Q + "}<tool_call|>", False),
        (call("f", 'q:"a",r:1'), False),
        ("<|tool_call> call:g{}<tool_call|>", False),
    ],
)
def test_required(text, holds):
    made = grammar([Function("f", SCHEMAS["strings"]), Function("g")], start=Start.MAY_THINK)
    assert accepts(made, text) is holds


def test_auto_allows_text_and_constrains_only_strict_tools():
    loose = Function("loose", SCHEMAS["strings"], strict=False)
    made = grammar([loose, Function("f", SCHEMAS["strings"])], Calls.ANY, Start.ANSWER)
    assert accepts(made, "")
    assert accepts(made, "Hi {there}: <b>")
    assert accepts(made, "Hi." + call("loose", "x:1") + "And" + call("f", 'q:"a"') + ".")
    assert not accepts(made, "Hi." + call("f", "x:1"))
    assert not accepts(made, "Hi.<|tool_call>call:loose{x:1")


def test_a_pattern_matches_anywhere_unless_it_is_anchored():
    for pattern, texts in {"cat": "xcatx cat", "^ca": "cat ca", "at$": "cat at"}.items():
        schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}
        made = grammar([Function("f", schema)], Calls.ONE)
        for text in texts.split():
            assert accepts(made, call("f", f'a:"{text}"'))
        for text in ("dog", "xca", "atx", ""):
            assert not accepts(made, call("f", f'a:"{text}"'))


def test_an_opened_thought_comes_first():
    made = grammar([Function("g")], Calls.ONE, Start.IN_THOUGHT)
    assert accepts(made, "Hm.<channel|>" + call("g"))
    assert not accepts(made, call("g"))
    assert not accepts(made, "<|channel>thought\nHm.<channel|>" + call("g"))


def test_control_tokens_are_never_text():
    made = grammar([Function("f", SCHEMAS["strings"])], Calls.ANY)
    assert accepts(made, call("f", 'q:"a<b>|"'))
    for token in ("<|turn>", "<|image|>", "<|channel>", "<bos>"):
        assert not accepts(made, token)
        assert not accepts(made, call("f", f'q:"{token}"'))


@pytest.mark.parametrize(
    ("prompt", "start"),
    [
        (
            "<|turn>system\n<|think|>\n<turn|>\n<|turn>user\nhi<turn|>\n<|turn>model\n",
            "before a thought",
        ),
        ("<|turn>user\nhi<turn|>\n<|turn>model\n", "past thought"),
        ("<|turn>model\n<|channel>thought\n<channel|>", "past thought"),
        ("<|think|>\n<tool_response|>", "before a thought"),
        ("<|think|>\n<tool_response|><|channel>thought\n", "in a thought"),
        ("", "past thought"),
    ],
)
def test_the_prompt_says_where_the_model_starts(prompt, start):
    ids = made_tokenizer().encode(prompt, add_special_tokens=False)
    assert start_of(ids, control_tokens()).value == start


def test_keywords_that_no_rule_expresses_are_reported():
    odd = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "pattern": "(?=x)y"},
            "b": {"type": "array", "uniqueItems": True, "maxItems": 1000},
            "c": {"type": "integer", "multipleOf": 3},
        },
    }
    _, left_out = turn_grammar(
        [Function("f", odd)], control_tokens(), Calls.ONE, Start.ANSWER, VOCAB
    )
    assert left_out == {"f": {"pattern", "uniqueItems", "maxItems", "multipleOf"}}


@pytest.mark.parametrize(
    "pattern", ["a\x00b", "\\0", "^a$|^b$", "(", "a" * 600, "((a{30}){30}){30}", "\\bx"]
)
def test_patterns_that_xgrammar_cannot_take_are_left_out(pattern):
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}
    text, left_out = turn_grammar(
        [Function("f", schema)], control_tokens(), Calls.ONE, Start.ANSWER, VOCAB
    )
    assert left_out == {"f": {"pattern"}}
    assert accepts(text, call("f", 'a:"x"'))


NO_TEXT = ("\x00", "a\x00b", "\ud800")  # no token spells these


@pytest.mark.parametrize("text", NO_TEXT)
@pytest.mark.parametrize(
    ("schema", "word"),
    [
        (lambda text: {"const": text}, "const"),
        (lambda text: {"const": {"k": [text]}}, "const"),
        (lambda text: {"const": {text: 1}}, "const"),
        (lambda text: {"enum": [text]}, "enum"),
        (lambda text: {"enum": ["ok", text]}, "enum"),
    ],
)
def test_values_that_no_token_spells_are_left_out(text, schema, word):
    odd = {"type": "object", "properties": {"a": schema(text)}, "required": ["a"]}
    made, left_out = turn_grammar(
        [Function("f", odd)], control_tokens(), Calls.ONE, Start.ANSWER, VOCAB
    )
    assert left_out == {"f": {word}}
    assert accepts(made, call("f", 'a:"ok"'))
    assert accepts(made, call("f", 'a:"x"')) is ("ok" not in schema(text).get("enum", []))


@pytest.mark.parametrize("key", [*NO_TEXT, "", " ", "a:b", "a{", "a,b", "a\nb", "<x", "k" * 300])
def test_keys_that_no_call_can_hold_are_left_out(key):
    """Neither a required key nor an optional one stops the model or breaks its call."""
    for odd in (
        {"type": "object", "properties": {key: {}, "b": {}}, "required": [key, "b"]},
        {"type": "object", "properties": {key: {}, "b": {}}, "required": ["b"]},
        {"type": "object", "properties": {"b": {}}, "required": [key, "b"]},
        {
            "type": "object",
            "properties": {"b": {}},
            "required": ["b"],
            "additionalProperties": {},
            "propertyNames": {"enum": [key, "c"]},
        },
    ):
        made, left_out = turn_grammar(
            [Function("f", odd)], control_tokens(), Calls.ONE, Start.ANSWER, VOCAB
        )
        assert left_out == {"f": {"a key that a call cannot hold"}}
        assert accepts(made, call("f", "b:1"))
        turns = [text for seed in range(10) if (text := generate(made, seed, 400)) is not None]
        assert all(read(text)[1] == "" for text in turns)


def test_recursive_and_doubling_schemas_end():
    itself = {"$ref": "#", "properties": {"a": {"$ref": "#"}}}
    loop = {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}}
    doubling = {
        "$ref": "#/$defs/d0",
        "$defs": {
            f"d{i}": {
                "type": "object",
                "properties": {
                    n: {"title": "t", "nullable": True, "$ref": f"#/$defs/d{i + 1}"} for n in "ab"
                },
            }
            for i in range(40)
        },
    }
    for schema in (itself, loop, doubling):
        assert control_tokens_in(grammar([Function("f", schema)]))


def test_a_grammar_of_the_client_is_not_mistaken_for_ours():
    assert control_tokens_in('root ::= "a"') is None
