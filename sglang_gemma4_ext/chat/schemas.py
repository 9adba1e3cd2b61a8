# SPDX-License-Identifier: Apache-2.0
"""Follow the references inside one JSON schema, and join two schemas that hold at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote


def resolve(root: Any, ref: Any) -> Any | None:
    """Return what a JSON pointer such as `#/$defs/Name` points to in `root`, or None."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        return None
    found = root
    for step in unquote(ref[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, Sequence) and not isinstance(found, str) and name.isdecimal():
            if int(name) >= len(found):
                return None
            found = found[int(name)]
        else:
            return None
    return found


def joined(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Return one schema for two that hold at once; where both define a keyword, `outer` decides.

    Their properties and their required names are united.
    """
    out = {**inner, **outer}
    ours, theirs = inner.get("properties"), outer.get("properties")
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        out["properties"] = {**ours, **theirs}
    required = [
        name
        for part in (outer, inner)
        for name in listed(part, "required")
        if isinstance(name, str)
    ]
    if required:
        out["required"] = list(dict.fromkeys(required))
    return out


def listed(schema: Mapping[str, Any], word: str) -> list[Any]:
    """Return what a keyword lists; a keyword without a list says nothing."""
    parts = schema.get(word)
    return parts if isinstance(parts, list) else []
