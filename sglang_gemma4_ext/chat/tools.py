# SPDX-License-Identifier: Apache-2.0
"""Read from a request's tools the names, keys and types of a call's arguments."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
JSON_INTEGER = re.compile(r"-?(?:0|[1-9]\d*)")
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}
_MOST_CHOICES = 256

Schema = Mapping[str, Any]


class Tools:
    """Hold the declared tools: name -> JSON schema of the arguments; a schema may be missing."""

    def __init__(self, schemas: Mapping[str, Any] | None = None):
        self.schemas = dict(schemas or {})

    def declares(self, name: str) -> bool:
        return name in self.schemas

    def arguments(self, name: str) -> Node:
        schema = self.schemas.get(name)
        return Node(schema, schema)


class Node:
    """Read one place of a schema leniently: unknown keywords allow everything."""

    def __init__(self, schema: Any, root: Any):
        self._root = root
        self._choices = _choices(schema, root)

    @functools.cached_property
    def types(self) -> frozenset[str]:
        """Return the JSON types allowed here; empty if the schema does not say."""
        found: set[str] = set()
        for choice in self._choices:
            types = _types(choice)
            if not types:
                return frozenset()
            found |= types
        return frozenset(found)

    @property
    def takes_text(self) -> bool:
        return not self.types or "string" in self.types

    def member(self, key: str) -> Node:
        """Return the schema of a key: its own, additionalProperties, or one that allows all."""
        for choice in self._choices:
            properties = choice.get("properties")
            if isinstance(properties, Mapping) and key in properties:
                return Node(properties[key], self._root)
        for choice in self._choices:
            if isinstance(choice.get("additionalProperties"), Mapping):
                return Node(choice["additionalProperties"], self._root)
        return Node(None, self._root)

    def may_have_member(self, key: str) -> bool:
        """Tell whether `key` is declared, or no key is."""
        declared = [c["properties"] for c in self._choices if c.get("properties")]
        return not declared or any(isinstance(d, Mapping) and key in d for d in declared)

    def element(self) -> Node:
        for choice in self._choices:
            if isinstance(choice.get("items"), Mapping):
                return Node(choice["items"], self._root)
        return Node(None, self._root)


def bare_json(text: str, node: Node) -> str | None:
    """Convert a value without delimiters to JSON, or return None if it can only be text."""
    if node.types and "string" in node.types and text != "null":
        is_other = not node.types.isdisjoint(_types_of(text))
        return text if is_other and _is_literal(text) else None
    if _is_literal(text):
        return text
    return _PYTHON_WORDS.get(text)


def delimited_json(text: str, node: Node) -> str:
    """Convert a string to JSON, of the schema's type if that takes no string."""
    if not node.takes_text:
        stripped = text.strip()
        stripped = _PYTHON_WORDS.get(stripped, stripped)
        if not node.types.isdisjoint(_types_of(stripped)):
            return stripped
    return quoted(text)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _is_literal(text: str) -> bool:
    return text in ("true", "false", "null") or JSON_NUMBER.fullmatch(text) is not None


def _types_of(text: str) -> frozenset[str]:
    """Return the JSON types, without string, of which `text` is a value."""
    if text in ("true", "false"):
        return frozenset({"boolean"})
    if text == "null":
        return frozenset({"null"})
    if JSON_INTEGER.fullmatch(text):
        return frozenset({"integer", "number"})
    if JSON_NUMBER.fullmatch(text):
        return frozenset({"number"})
    if text[:1] in ("{", "["):
        try:
            json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return frozenset()
        return frozenset({"object" if text[0] == "{" else "array"})
    return frozenset()


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _choices(schema: Any, root: Any) -> list[Schema]:
    """List the alternatives of a schema, with local references followed, each once."""
    found: list[Schema] = []
    seen: set[int] = set()
    ahead = [schema]
    while ahead and len(seen) < _MOST_CHOICES:
        part = ahead.pop()
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        inner = [_resolve(part["$ref"], root)] if "$ref" in part else []
        for keyword in ("anyOf", "oneOf", "allOf"):
            inner += part[keyword] if isinstance(part.get(keyword), list) else []
        ahead += inner
        if not inner or "properties" in part:
            found.append(part)
    return found


def _resolve(reference: Any, root: Any) -> Any:
    if reference == "#":
        return root
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return {}
    found = root
    for step in reference[2:].split("/"):
        if not isinstance(found, Mapping):
            return {}
        found = found.get(step.replace("~1", "/").replace("~0", "~"))
    return found


def _types(choice: Schema) -> frozenset[str]:
    given = choice.get("type")
    if isinstance(given, str):
        return frozenset({given})
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        return frozenset(given)
    values = choice.get("enum")
    if "const" in choice:
        values = [choice["const"]]
    if isinstance(values, list) and values:
        return frozenset().union(*({_type_of(value)} for value in values))
    return frozenset()


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    if isinstance(value, int):
        return "integer"
    return {float: "number", str: "string", list: "array"}.get(type(value), "object")
