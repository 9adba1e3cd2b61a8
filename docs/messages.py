# SPDX-License-Identifier: Apache-2.0
"""Generate the list of messages in docs/troubleshooting.md: `python -m docs.messages --write`.

Messages are read from the source: each exception that carries a literal text. What is filled in at
run time appears as `...`.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("troubleshooting.md")
MARK = "<!-- messages: written by python -m docs.messages --write -->"
ROOMS = ("sglang_gemma4_ext", "patches")
# Not part of a server: the demo's training, and the commands for contributors.
ELSEWHERE = ("sglang_gemma4_ext/demo/training/", "sglang_gemma4_ext/digests.py")
USER_ERRORS = {
    "CheckpointError",
    "HeldBackError",
    "PlanError",
    "RuntimeError",
    "SettingsError",
    "SystemExit",
    "ValueError",
}


def messages(path: Path) -> Iterator[str]:
    """Yield the text of each exception that a module raises for the user to read."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
            if name in USER_ERRORS and node.exc.args:
                text = _text(node.exc.args[0])
                if len(re.sub(r"[\W_]|\.\.\.", "", text)) > 8:
                    yield re.sub(r"\s+", " ", text).strip()


def _text(node: ast.expr) -> str:
    """Return the literal parts of a message, `...` for the rest."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "..."


def listing() -> str:
    """Render the messages as Markdown, a section a module, in order of path."""
    sections = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            relative = path.relative_to(ROOT).as_posix()
            linked = relative.startswith(
                ("sglang_gemma4_ext/patches/", "sglang_gemma4_ext/kernels/")
            )
            if linked or relative.startswith(ELSEWHERE):
                continue
            found = sorted(set(messages(path)))
            if found:
                sections.append(f"### `{relative}`\n\n" + "\n".join(f"- {text}" for text in found))
    return "\n\n".join(sections) + "\n"


def renewed(page: str) -> str:
    """Return the page with the current list behind its mark."""
    return f"{page.partition(MARK)[0]}{MARK}\n\n{listing()}"


def main() -> int:
    """Write the list into the page, or print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    if parser.parse_args().write:
        PAGE.write_text(renewed(PAGE.read_text()))
    else:
        print(listing(), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
