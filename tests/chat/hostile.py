# SPDX-License-Identifier: Apache-2.0
"""Tools that no honest client sends: schemas of wrong types, without end, or of great size."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

words = st.sampled_from(["a", "b", "", "é-x", "call:f{", '<|"|>', "\x00", "__proto__", "\ud800"])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False), words
)
KEYWORDS = (
    "type", "properties", "items", "prefixItems", "additionalItems", "additionalProperties",
    "required", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "nullable", "pattern",
    "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "minItems", "maxItems",
    "propertyNames", "not", "format", "description", "title", "default",
)  # fmt: skip
TYPES = ("object", "array", "string", "integer", "number", "boolean", "null", "any", "Object")
references = st.sampled_from(
    ["#", "#/", "#/$defs/a", "#/$defs/b", "#/properties/a", "http://x", "#/0"]
)
values = st.recursive(
    scalars | references | st.sampled_from(TYPES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(words | st.sampled_from(KEYWORDS), inner, max_size=4)
    ),
    max_leaves=24,
)
schemas = st.dictionaries(st.sampled_from(KEYWORDS), values, max_size=6)


def reference_bomb(levels: int, word: str = "anyOf") -> dict[str, Any]:
    """2 ** levels alternatives in a few lines."""
    defs: dict[str, Any] = {
        f"d{i}": {word: [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(levels)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{levels}": {"type": "string"}}}


def object_of(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = object_of(schema)
    return schema


def deep_union(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"anyOf": [schema], "type": "object"}
    return schema


def deep_items(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return object_of(schema)


def deep_value(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


HOSTILE: dict[str, dict[str, Any]] = {
    "anyOf bomb": object_of(reference_bomb(40)),
    "anyOf bomb at the root": reference_bomb(40),
    "oneOf bomb": object_of(reference_bomb(40, "oneOf")),
    "allOf bomb": object_of(reference_bomb(40, "allOf")),
    "product of unions": object_of(
        {"allOf": [{"anyOf": [{"type": "string"}] * 30}] * 30, "anyOf": [{"oneOf": [{}] * 30}] * 30}
    ),
    "deep unions": object_of(deep_union(300)),
    "deep union at the root": deep_union(300),
    "deep value": object_of({"const": deep_value(900)}),
    "deep items": deep_items(900),
    "recursive": {"type": "object", "properties": {"a": {"$ref": "#"}}},
    "refers to itself": {"$ref": "#"},
    "items of itself": {"type": "array", "items": {"$ref": "#"}},
    "two that name each other": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    },
    "huge enum": object_of({"enum": [f"value {i}" for i in range(20_000)]}),
    "union of huge enums": object_of(
        {"anyOf": [{"enum": [f"{i} {k}" for i in range(20_000)]} for k in range(2)]}
    ),
    "many properties": {
        "type": "object",
        "properties": {f"p{i}": {"type": "string"} for i in range(3_000)},
        "required": [f"p{i}" for i in range(0, 3_000, 2)],
    },
    "deep": nested(150),
    "long strings": object_of({"type": "string", "minLength": 10**9, "maxLength": 10**12}),
    "long arrays": object_of({"type": "array", "minItems": 10**9, "items": nested(10)}),
    "costly pattern": object_of({"type": "string", "pattern": "(a{1,500}){1,500}"}),
    "broken pattern": object_of({"type": "string", "pattern": "([a-z"}),
    "types of no kind": object_of({"type": [[], {}, 7, "string"]}),
    "names of no kind": {"type": "object", "properties": {"": {}, "\x00": {}, "a b,c:{": {}}},
}  # fmt: skip
