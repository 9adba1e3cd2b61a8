# SPDX-License-Identifier: Apache-2.0
"""Define the row of a bench: what was measured, and under which conditions.

A file of results holds one JSON object a row, with the conditions beside the measured values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Conditions:
    """Hold where, when and how a row was measured.

    gpu, capability, interpreted: of kernel benches alone; capability is "sm_86"
    """

    machine: str
    versions: dict[str, str | None]
    python: str
    commit: str
    date: str
    command: str
    gpu: str | None = None
    capability: str | None = None
    interpreted: bool = False


@dataclass(frozen=True)
class Row:
    """Hold measured values with their conditions. Every value is ready for JSON."""

    measured: dict[str, Any]
    conditions: Conditions

    @classmethod
    def of(cls, content: dict[str, Any]) -> Row:
        """Split a JSON object into values and conditions. Raises ValueError on what is missing."""
        required = {"machine", "versions", "python", "commit", "date", "command"}
        if missing := sorted(required - content.keys()):
            raise ValueError(f"a row of results lacks {', '.join(missing)}")
        names = {field.name for field in fields(Conditions)}
        made_under = Conditions(**{name: content[name] for name in names & content.keys()})
        for name in required - {"versions"}:
            if not isinstance(getattr(made_under, name), str):
                raise ValueError(f"{name} of a row of results is not a text")
        if not isinstance(made_under.versions, dict) or not made_under.versions:
            raise ValueError("versions of a row of results is not an object with packages")
        measured = {name: value for name, value in content.items() if name not in names}
        if not measured:
            raise ValueError("a row of results has conditions and no values")
        return cls(measured, made_under)


def as_line(content: dict[str, Any]) -> str:
    """Check a row and return it as one line of JSON. Raises ValueError."""
    Row.of(content)
    return json.dumps(content)
