# SPDX-License-Identifier: Apache-2.0
"""Fold tool schemas into the part of JSON Schema that Gemma 4's chat template declares.

The template declares a property's `type`, `description`, `nullable`, string `enum`, `items`,
`properties` and `required`. Everything else disappears from the prompt, and a missing description
becomes the word None. What the template can declare passes through unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sglang_gemma4_ext.chat.schemas import joined, listed, resolve

# References may double at each level; parts beyond these limits become plain objects.
MOST_PARTS = 4096
MOST_LEVELS = 64
_COMBINED = ("anyOf", "oneOf", "allOf", "$ref", "const")
_DECLARED_BY_ITSELF = ("description", "type", "properties", "required", "nullable")
_JSON_TYPES = {
    bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object",
}  # fmt: skip


def declarable_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the tools of a request with every function declarable.

    tools: `{"type": "function", "function": {...}}`, or the functions alone.
    """
    out = []
    for tool in tools:
        inner = tool.get("function")
        if isinstance(inner, Mapping):
            out.append({**tool, "function": declarable(inner)})
        else:
            out.append(declarable(tool))
    return out


def declarable(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return one function with a description and with parameters that the template declares."""
    out = dict(function)
    if out.get("description") is None:
        out["description"] = ""
    parameters = out.get("parameters")
    if isinstance(parameters, Mapping) and parameters:
        folded = _Folder(parameters).fold(parameters)
        # Without a type the template leaves the declaration's brace open.
        out["parameters"] = {**folded, "type": folded.get("type") or "object"}
    elif "parameters" in out and not parameters:
        del out["parameters"]
    return out


class _Folder:
    """Fold the parts of one schema; references are looked up in `root`."""

    def __init__(self, root: Mapping[str, Any]):
        self.root = root
        self.parts = 0
        self.level = 0

    def fold(
        self, schema: Any, *, in_items: bool = False, open_refs: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Fold one part. open_refs: the references that contain this part."""
        if not isinstance(schema, Mapping):
            return {}
        self.parts += 1
        if self.parts > MOST_PARTS or self.level == MOST_LEVELS:
            return {"type": "object", "properties": {}}
        self.level += 1
        out = self._folded(schema, in_items, open_refs)
        self.level -= 1
        return out

    def _folded(
        self, schema: Mapping[str, Any], in_items: bool, open_refs: tuple[str, ...]
    ) -> dict[str, Any]:
        schema, open_refs = self._dereferenced(schema, open_refs)
        out = {k: v for k, v in schema.items() if k not in (*_COMBINED, "$defs", "definitions")}
        if not out.get("type"):
            out.pop("type", None)
        for part in _mappings(schema.get("allOf")):
            out = joined(out, self.fold(part, in_items=in_items, open_refs=open_refs))
        for key in ("anyOf", "oneOf"):
            parts = list(_mappings(schema.get(key)))
            folded = [self.fold(part, in_items=in_items, open_refs=open_refs) for part in parts]
            shape, note = _one_of(folded)
            out = joined(out, shape)
            _add_note(out, note)
        if "const" in schema:
            out.setdefault("enum", [schema["const"]])
        _settle_type(out)
        _settle_enum(out, in_items)
        if isinstance(out.get("properties"), Mapping):
            out["properties"] = {
                name: self.fold(part, open_refs=open_refs)
                for name, part in out["properties"].items()
            }
        elif out.get("type") == "object" and not in_items and _would_break(out):
            out["properties"] = {}
        self._fold_items(out, open_refs)
        return out

    def _dereferenced(
        self, schema: Mapping[str, Any], open_refs: tuple[str, ...]
    ) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """Replace `$ref` by its target; a part that contains itself becomes a plain object."""
        while "$ref" in schema:
            ref = schema["$ref"]
            siblings = {key: value for key, value in schema.items() if key != "$ref"}
            found = resolve(self.root, ref)
            if not isinstance(found, Mapping):
                return siblings, open_refs
            if ref in open_refs:
                text = {k: found[k] for k in ("description", "title") if k in found}
                return {"type": "object", "properties": {}, **text, **siblings}, open_refs
            schema, open_refs = {**found, **siblings}, (*open_refs, ref)
        return schema, open_refs

    def _fold_items(self, out: dict[str, Any], open_refs: tuple[str, ...]) -> None:
        items = out.get("items")
        if isinstance(items, list):
            items = {"anyOf": items}
        elif items is None and out.get("prefixItems"):
            items = {"anyOf": out["prefixItems"]}
        if isinstance(items, Mapping):
            out["items"] = self.fold(items, in_items=True, open_refs=open_refs)


def _mappings(parts: Any) -> Iterable[Mapping[str, Any]]:
    if isinstance(parts, list):
        yield from (part for part in parts if isinstance(part, Mapping))


def _one_of(folded: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """Return one schema for several alternatives, and a note for its description.

    The template declares no union. null becomes `nullable`. Objects are merged, and only keys that
    all of them require stay required. Of other alternatives the first is used, and the note names
    all.
    """
    shapes = [part for part in folded if part.get("type") != "null"]
    nullable = len(shapes) < len(folded) or any(part.get("nullable") for part in shapes)
    if not shapes:
        return ({"type": "null"} if folded else {}), ""
    out, note = dict(shapes[0]), ""
    if len(shapes) > 1:
        types = {part.get("type") for part in shapes}
        if types == {"object"}:
            out = _merged_objects(shapes)
        elif len(types) == 1 and all("enum" in part for part in shapes):
            values = [value for part in shapes for value in part["enum"]]
            out["enum"] = list({_identity(value): value for value in values}.values())
        else:
            note = "One of: " + ", ".join(dict.fromkeys(map(_name, shapes)))
    if nullable:
        out["nullable"] = True
    return out, note


def _identity(value: Any) -> Any:
    """Equal for equal values, 1 and True apart; hashable."""
    return (type(value), value) if isinstance(value, str | int | float) else repr(value)


def _merged_objects(shapes: list[dict[str, Any]]) -> dict[str, Any]:
    out = dict(shapes[0])
    properties: dict[str, Any] = {}
    for shape in shapes:
        for name, part in (shape.get("properties") or {}).items():
            if properties.get(name) in (None, part):
                properties[name] = part
            else:
                properties[name], note = _one_of([properties[name], part])
                _add_note(properties[name], note)
    out["properties"] = properties
    in_all = [name for name in _list(out.get("required")) if _required_by_all(name, shapes)]
    out.pop("required", None)
    if in_all:
        out["required"] = in_all
    return out


def _required_by_all(name: str, shapes: list[dict[str, Any]]) -> bool:
    return all(name in _list(shape.get("required")) for shape in shapes)


def _name(shape: Mapping[str, Any]) -> str:
    """Describe an alternative in a few words."""
    if "enum" in shape:
        return ", ".join(json.dumps(value, ensure_ascii=False) for value in shape["enum"])
    if shape.get("type") == "array" and isinstance(shape.get("items"), Mapping):
        return f"array of {_name(shape['items'])}"
    return str(shape.get("type") or "any value")


def _settle_type(out: dict[str, Any]) -> None:
    """Reduce to one type: of a list the first, null in it `nullable`; infer an absent one."""
    given = out.get("type")
    if isinstance(given, list):
        types = [name for name in given if name != "null"]
        if len(types) < len(given):
            out["nullable"] = True
        out["type"] = types[0] if types else "null"
        if len(types) > 1:
            _add_note(out, "One of: " + ", ".join(map(str, types)))
    elif given is None:
        if isinstance(out.get("properties"), Mapping):
            out["type"] = "object"
        elif "items" in out or "prefixItems" in out:
            out["type"] = "array"


def _settle_enum(out: dict[str, Any], in_items: bool) -> None:
    """Give an enum its values' type, and name values that are not strings in the description."""
    values = listed(out, "enum")
    if not values:
        out.pop("enum", None)
        return
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        out["nullable"] = True
        out["enum"] = known
    types = {_JSON_TYPES.get(type(value), "string") for value in known}
    if not out.get("type"):
        out["type"] = types.pop() if len(types) == 1 else "string"
    # The template declares an `items` enum of any type, but other enums only of strings.
    only_strings = all(isinstance(value, str) for value in known)
    if not in_items and not (only_strings and out["type"] == "string"):
        _add_note(out, "One of: " + _name({"enum": known}))


def _add_note(out: dict[str, Any], note: str) -> None:
    text = str(out.get("description") or "").rstrip()
    if not note or note in text:
        return
    if text:
        text += " " if text.endswith((".", "!", "?", ":")) else ". "
    out["description"] = text + note


def _would_break(schema: Mapping[str, Any]) -> bool:
    """Tell whether the template would fail on a keyword of a bare object.

    Without `properties` it declares every other keyword as a property and expects schemas.
    """
    return not all(
        isinstance(value, Mapping)
        for key, value in schema.items()
        if key not in _DECLARED_BY_ITSELF
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
