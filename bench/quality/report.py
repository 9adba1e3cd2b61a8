# SPDX-License-Identifier: Apache-2.0
"""Write the quality table in Markdown from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.quality.compare import difference

HEAD = (
    "| served | asked | right | accuracy (95 %) | difference | only one right | p |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Compare each row with the first one asked the same way, by McNemar's exact p."""
    lines = [HEAD]
    for row in rows:
        cells = [row["name"], _asked(row)]
        if "failed" in row:
            lines.append(f"| {' | '.join(cells)} | - | failed: {row['failed']} | | | |")
            continue
        low, high = row["interval"]
        cells += [f"{row['right']} of {row['questions']}"]
        cells += [f"{row['accuracy']:.3f} ({low:.3f} to {high:.3f})"]
        lines.append(f"| {' | '.join((*cells, *_against(_first(rows, row), row)))} |")
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    """Format one row as it arrives."""
    found = row.get("failed") or f"{row['right']} of {row['questions']} right"
    return f"{row['name']}, {_asked(row)}: {found}"


def bits(row: dict[str, Any]) -> list[bool]:
    return [digit == "1" for digit in row["right_of_each"]]


def _asked(row: dict[str, Any]) -> str:
    return "chat" if row["chat"] else f"letter, {row['shots']}-shot"


def _first(rows: Iterable[dict[str, Any]], like: dict[str, Any]) -> dict[str, Any]:
    same = ("chat", "shots", "questions", "data", "seed")
    return next(row for row in rows if "failed" not in row and all(row[k] == like[k] for k in same))


def _against(first: dict[str, Any], row: dict[str, Any]) -> list[str]:
    if first is row:
        return ["-", "-", "-"]
    found = difference(bits(first), bits(row))
    p = f"{found.p:.3f}" if found.p >= 0.001 else "< 0.001"
    return [f"{found.share:+.3f}", f"{found.only_first} / {found.only_second}", p]
