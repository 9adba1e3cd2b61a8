# SPDX-License-Identifier: Apache-2.0
"""Write grammar rules for a call's arguments: a JSON schema in Gemma 4's notation of values.

Strings stand between two control tokens with nothing escaped, and keys are bare. An object's keys
come in the order in which the chat template writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sglang_gemma4_ext.chat.alternatives import TooMany, alternatives
from sglang_gemma4_ext.chat.call import KEY_EDGE, KEY_INNER, is_key
from sglang_gemma4_ext.chat.ebnf import TEXT, literal, number_rules, pattern_rules
from sglang_gemma4_ext.chat.schemas import listed, resolve
from sglang_gemma4_ext.chat.written import Unwritable, written

# Keywords that restrict a value and that no rule here expresses.
UNENFORCED = (
    "contains", "dependentRequired", "dependentSchemas", "if", "multipleOf", "not",
    "patternProperties", "uniqueItems", "unevaluatedProperties", "minProperties", "maxProperties",
)  # fmt: skip
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_NAMED = {"boolean": "boolean", "null": '"null"', "string": "string"}
MOST_ITEMS = 64
MOST_KEY = 64
MOST_RULES = 4000
MOST_LEVELS = 40
_SILENT = {"description", "title", "default", "examples", "$comment", "deprecated"}


def common_rules(string_id: int, counted: int) -> list[str]:
    """Return the rules that all calls share. string_id: the token before and after a string.

    A key that no schema names is bounded where counting characters is cheap.
    """
    most = MOST_KEY if counted >= MOST_KEY else ""
    return [
        f"string ::= Token({string_id}) {TEXT}* Token({string_id})",
        'boolean ::= "true" | "false"',
        'integer ::= "-"? ("0" | [1-9] [0-9]*)',
        'number ::= integer ("." [0-9]+)? ([eE] [+\\-]? [0-9] [0-9]?)?',
        f"key ::= {KEY_EDGE} ({KEY_INNER}{{0,{most}}} {KEY_EDGE})?",
        'value ::= string | boolean | "null" | number | "{" pairs "}" | "[" values "]"',
        'pairs ::= (key ":" value ("," key ":" value)*)?',
        'values ::= (value ("," value)*)?',
    ]


class ArgumentRules:
    """Collect rules for the values of one schema; `rules` and `unenforced` grow."""

    def __init__(self, root: Any, string_id: int, prefix: str, counted: int):
        """Prepare the rules.

        counted: the most characters that a rule may count; compiling costs time for each
        """
        self.root = root
        self.quote = f"Token({string_id})"
        self.prefix = prefix
        self.counted = counted
        self.rules: list[str] = []
        self.unenforced: set[str] = set()
        self._by_ref: dict[str, str] = {}
        self._names = self._level = 0

    def arguments(self) -> str:
        """Return an expression for all that stands between the braces of a call."""
        if self.root is None or self.root == {}:
            return '""'
        try:
            found = alternatives(self.root, self.root)
        except TooMany:
            self.unenforced.add("what has too many alternatives")
            return "pairs"
        bodies = [self._pairs(part) for part in found if part.get("type") in (None, "object")]
        return _choice(bodies) if bodies else "pairs"

    def value(self, schema: Any, chain: tuple[str, ...] = ()) -> str:
        """Return an expression for one value. chain: references followed since the last token."""
        if not isinstance(schema, Mapping) or not schema:
            return "value"
        if len(self.rules) > MOST_RULES or self._level > MOST_LEVELS:
            self.unenforced.add("what lies too deep")
            return "value"
        self._level += 1
        try:
            parts = list(dict.fromkeys(self._parts(schema, chain)))
        except TooMany:
            self.unenforced.add("what has too many alternatives")
            parts = []
        finally:
            self._level -= 1
        return _choice(parts) if parts else "value"

    def _parts(self, schema: Mapping[str, Any], chain: tuple[str, ...]) -> Iterable[str]:
        """Yield one expression per alternative; a schema named only by reference gets a rule."""
        words = set(schema) - _SILENT
        if words == {"$ref"} and isinstance(schema["$ref"], str):
            yield self._referenced(schema["$ref"], chain)
        elif words in ({"anyOf"}, {"oneOf"}):
            for part in schema[words.pop()]:
                yield self.value(part, chain)
        else:
            for part in alternatives(self.root, schema, chain):
                yield self._plain(part)

    def _referenced(self, ref: str, chain: tuple[str, ...]) -> str:
        """Make one rule per reference, so that a schema may contain itself."""
        found = resolve(self.root, ref)
        if ref in chain or found is None:
            return "value"
        if ref not in self._by_ref:
            self._by_ref[ref] = name = self._new_name()
            expression = self.value(found, (*chain, ref))
            self.rules.append(f"{name} ::= {expression}")
        return self._by_ref[ref]

    def _plain(self, schema: Mapping[str, Any]) -> str:
        """Return an expression for a value whose schema has one type, or none."""
        self.unenforced.update(word for word in UNENFORCED if word in schema)
        for word, values in (("const", [schema.get("const")]), ("enum", schema.get("enum"))):
            if word in schema and isinstance(values, list) and values:
                fit = [v for v in values if word == "const" or _is_of(v, schema.get("type"))]
                if parts := self._written(fit or values, word):
                    return _choice(parts)
        kind = schema.get("type") or _inferred(schema)
        if kind == "object":
            return f'"{{" {self._pairs(schema)} "}}"'
        if kind == "array":
            return self._array(schema)
        if kind == "string":
            return self._string(schema)
        if kind in ("integer", "number"):
            return self._number(schema, kind)
        return _NAMED.get(str(kind), "value")

    def _written(self, values: Iterable[Any], word: str) -> list[str]:
        """Return expressions for the values of a keyword that a call can hold."""
        parts = []
        for value in values:
            try:
                parts.append(written(value, self.quote))
            except Unwritable:
                self.unenforced.add(word)
        return parts

    def _holdable(self, keys: Iterable[str]) -> list[str]:
        """Return the keys that a call can hold."""
        keys = list(keys)
        found = [key for key in keys if is_key(key)]
        if len(found) < len(keys):
            self.unenforced.add("a key that a call cannot hold")
        return found

    def _pairs(self, schema: Mapping[str, Any]) -> str:
        """Return an expression for pairs in the template's order; some may be optional.

        There are two chains of rules: `first` before the first pair is written, `next` after it.
        """
        properties = schema.get("properties")
        required = [name for name in listed(schema, "required") if isinstance(name, str)]
        more = schema.get("additionalProperties", None if isinstance(properties, Mapping) else True)
        known = dict(properties) if isinstance(properties, Mapping) else {}
        for name in required:
            known.setdefault(name, {})
        pair = self._free_pair(schema, more)
        first, after = (f'({pair} ("," {pair})*)?', f'("," {pair})*') if pair else ('""', '""')
        for name in sorted(self._holdable(known), key=str.lower, reverse=True):
            written = f"{literal(name + ':')} {self.value(known[name])}"
            rest = after
            if name in required:
                first = self._rule(f"{written} {rest}")
                after = self._rule(f'"," {written} {rest}')
            else:
                first = self._rule(f"{written} {rest} | {first}")
                after = self._rule(f'("," {written})? {rest}')
        return first

    def _free_pair(self, schema: Mapping[str, Any], more: Any) -> str | None:
        if more is None or more is False:
            return None
        names = schema.get("propertyNames")
        key = "key"
        if isinstance(names, Mapping):
            if isinstance(names.get("enum"), list):
                keys = self._holdable(map(str, names["enum"]))
                if not keys:
                    return None
                key = _choice(map(literal, keys))
            elif set(names) - {"type"}:
                self.unenforced.add("propertyNames")
        return f'{key} ":" {self.value(more)}'

    def _array(self, schema: Mapping[str, Any]) -> str:
        least, most = _count(schema.get("minItems")) or 0, _count(schema.get("maxItems"))
        items = schema.get("items", True)
        lead = schema.get("prefixItems") or (items if isinstance(items, list) else [])
        items = schema.get("additionalItems", True) if isinstance(items, list) else items
        written = [self.value(part) for part in lead]
        if items is False:
            most = len(written)
        least, most = max(0, least - len(written)), None if most is None else most - len(written)
        if least > MOST_ITEMS or (most or 0) > MOST_ITEMS:
            self.unenforced.add("minItems" if least > MOST_ITEMS else "maxItems")
            least, most = min(least, MOST_ITEMS), None
        item = None if most is not None and most <= 0 else self._rule(self.value(items))
        bound = "" if most is None else most
        if written:
            tail = f' ("," {item}){{{least},{bound}}}' if item else ""
            return '"[" ' + ' "," '.join(written) + tail + ' "]"'
        if not item:
            return '"[" "]"'
        bound = "" if most is None else most - 1
        full = f'{item} ("," {item}){{{max(0, least - 1)},{bound}}}'
        return f'"[" {full if least else f"({full})?"} "]"'

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, most = _count(schema.get("minLength")) or 0, _count(schema.get("maxLength"))
        if isinstance(pattern := schema.get("pattern"), str):
            made = pattern_rules(pattern, self._new_name() + "_", self.counted)
            if made is not None:
                self.rules += made[1]
                return f"{self.quote} {made[0]} {self.quote}"
            self.unenforced.add("pattern")
        if most is not None and most > self.counted:
            self.unenforced.add("maxLength")
            most = None
        if least > self.counted:
            self.unenforced.add("minLength")
            least = self.counted
        self.counted -= least if most is None else most
        if most is None:
            return f"{self.quote} {(TEXT + ' ') * least}{TEXT}* {self.quote}" if least else "string"
        return f"{self.quote} {TEXT}{{{least},{max(least, most)}}} {self.quote}"

    def _number(self, schema: Mapping[str, Any], kind: str) -> str:
        bounds = {word: schema[word] for word in _BOUNDS if _is_number(schema.get(word))}
        if not bounds:
            return kind
        made = number_rules({"type": kind, **bounds}, self._new_name() + "_")
        if made is None:
            self.unenforced.update(bounds)
            return kind
        self.rules += made[1]
        return made[0]

    def _rule(self, expression: str) -> str:
        name = self._new_name()
        self.rules.append(f"{name} ::= {expression}")
        return name

    def _new_name(self) -> str:
        self._names += 1
        return f"{self.prefix}{self._names}"


def _choice(expressions: Iterable[str]) -> str:
    parts = list(dict.fromkeys(expressions))
    return parts[0] if len(parts) == 1 else "(" + " | ".join(f"({part})" for part in parts) + ")"


def _inferred(schema: Mapping[str, Any]) -> str | None:
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else None


def _is_of(value: Any, kind: Any) -> bool:
    kinds = {
        "string": isinstance(value, str),
        "null": value is None,
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": _is_number(value),
    }
    return kinds.get(kind, True)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> int | None:
    return int(value) if _is_number(value) and value >= 0 else None
