# SPDX-License-Identifier: Apache-2.0
"""Check, without a server, how schemas are folded into what the template declares."""

from __future__ import annotations

import time

import pytest

from sglang_gemma4_ext.chat.declarations import declarable, declarable_tools
from tests.chat.shapes import WEATHER


def fold(schema, **more):
    made = {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}, **more}}
    return declarable(made)["parameters"]["properties"]["x"]


def test_declared_keywords_are_unchanged():
    assert declarable_tools([WEATHER]) == [WEATHER]
    assert declarable_tools([WEATHER["function"]]) == [WEATHER["function"]]


@pytest.mark.parametrize(
    ("schema", "folded"),
    [
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"anyOf": [{"type": "null"}]}, {"type": "null"}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"enum": ["a", None]}, {"type": "string", "enum": ["a"], "nullable": True}),
        (
            {"anyOf": [{"const": "a"}, {"enum": ["b", "a"]}]},
            {"type": "string", "enum": ["a", "b"]},
        ),
        (
            {"description": "d", "anyOf": [{"type": "string"}, {"type": "integer"}]},
            {"type": "string", "description": "d. One of: string, integer"},
        ),
        (
            {"type": ["number", "string"]},
            {"type": "number", "description": "One of: number, string"},
        ),
        (
            {"allOf": [{"type": "object", "properties": {"a": {}}}, {"required": ["a"]}]},
            {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        ),
        (
            {
                "oneOf": [
                    {
                        "type": "object",
                        "properties": {"k": {"const": "a"}, "v": {"type": "string"}},
                        "required": ["k", "v"],
                    },
                    {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"]},
                ]
            },
            {
                "type": "object",
                "properties": {
                    "k": {"type": "string", "enum": ["a", "b"]},
                    "v": {"type": "string"},
                },
                "required": ["k"],
            },
        ),
        (
            {"prefixItems": [{"type": "string"}, {"type": "null"}]},
            {
                "type": "array",
                "items": {"type": "string", "nullable": True},
                "prefixItems": [{"type": "string"}, {"type": "null"}],
            },
        ),
        (True, {}),
        ({"$ref": "#/$defs/none"}, {}),
    ],
)
def test_undeclared_keywords_are_folded(schema, folded):
    assert fold(schema) == folded


def test_references_are_followed_and_a_recursive_one_ends():
    tree = {
        "type": "object",
        "description": "tree",
        "properties": {"next": {"$ref": "#/$defs/T"}, "n": {"$ref": "#/$defs/a~1b"}},
    }
    folded = fold({"$ref": "#/$defs/T"}, **{"$defs": {"T": tree, "a/b": {"type": "integer"}}})
    assert folded["properties"]["n"] == {"type": "integer"}
    assert folded["properties"]["next"] == {
        "type": "object",
        "description": "tree",
        "properties": {},
    }


def test_references_that_double_do_not_grow_without_limit():
    steps = {
        f"d{i}": {"properties": {n: {"$ref": f"#/$defs/d{i + 1}"} for n in "ab"}} for i in range(40)
    }
    chain = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(4000)}
    for defs in (steps, chain):
        began = time.monotonic()
        fold({"$ref": "#/$defs/d0"}, **{"$defs": defs})
        assert time.monotonic() - began < 2
