# SPDX-License-Identifier: Apache-2.0
"""Expand a JSON schema into plain schemas; a value must fit one of them.

A few references may stand for 2 ** 40 alternatives, so the work is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sglang_gemma4_ext.chat.schemas import joined, listed, resolve

MOST_STEPS = 2000
MOST_LEVELS = 40


class TooMany(Exception):
    """Report a schema with too many alternatives, or of too many levels, to write out."""


def alternatives(root: Any, schema: Any, chain: tuple[str, ...] = ()) -> list[Mapping[str, Any]]:
    """Return the alternatives of a schema, without `$ref`, `allOf`, `anyOf` and type lists.

    root: where references are looked up. chain: the references that were followed to get here.
    Raises TooMany.
    """
    return list(_Expansion(root).of(schema, chain, 0))


class _Expansion:
    def __init__(self, root: Any):
        self._root = root
        self._steps = 0

    def of(self, schema: Any, chain: tuple[str, ...], level: int) -> Iterator[Mapping[str, Any]]:
        self._steps += 1
        if self._steps > MOST_STEPS or level > MOST_LEVELS:
            raise TooMany
        while isinstance(schema, Mapping) and "$ref" in schema:
            ref = schema["$ref"]
            if ref in chain:
                return
            found = resolve(self._root, ref)
            siblings = {k: v for k, v in schema.items() if k != "$ref"}
            chain = (*chain, ref)
            schema = joined(siblings, found) if isinstance(found, Mapping) else siblings
        if not isinstance(schema, Mapping):
            yield {}
        elif parts := listed(schema, "allOf"):
            whole: Mapping[str, Any] = {k: v for k, v in schema.items() if k != "allOf"}
            for part in parts:
                first = next(self.of(part, chain, level + 1), None)
                whole = whole if first is None else joined(whole, first)
            yield from self.of(whole, chain, level + 1)
        elif word := next((w for w in ("anyOf", "oneOf") if listed(schema, w)), None):
            rest = {k: v for k, v in schema.items() if k != word}
            for part in schema[word]:
                for found in self.of(part, chain, level + 1):
                    yield from self.of(joined(rest, found), chain, level + 1)
        else:
            yield from _of_each_type(schema)


def _of_each_type(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    kinds = schema.get("type")
    if isinstance(kinds, list):
        for kind in kinds:
            yield {**schema, "type": kind}
    else:
        yield schema
    if schema.get("nullable") is True:
        yield {"type": "null"}
