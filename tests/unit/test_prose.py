# SPDX-License-Identifier: Apache-2.0
"""Check the measurable part of the prose rules of CONTRIBUTING.md in docstrings and comments."""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("sglang_gemma4_ext", "patches", "kernels", "bench", "tests", "docs")
MOST_WORDS = 30
# A sentence ends with its mark before white space, or with the text.
END = re.compile(r"(?<=[.!?;])[\"')]?\s+(?=[A-Z`\"'(\[0-9<a-z-])")
# A new item: a list mark, a field such as `name: text`, or a note behind a code line.
ITEM = re.compile(r"(- |\d\. |[\w`*.\[\]]+(, [\w`*.\[\]]+)*: |Returns |Raises )")
# Shapes that CONTRIBUTING.md excludes.
EXCLUDED = re.compile(
    r"\b((?<!there )(is|are) no|all the same|such an? one|for it is|of which the|whatever its)\b",
    re.IGNORECASE,
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def all_texts(folder: str) -> Iterator[tuple[str, str]]:
    """Yield (path:line, text) of each docstring and block of comments in a folder."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for line, text in texts(path.read_text()):
            yield f"{path.relative_to(ROOT)}:{line}", text


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each docstring and of each block of comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        note = token.string.lstrip("#").removeprefix(" ")
        if token.type != tokenize.COMMENT or note.startswith(("fmt:", "noqa", "type:", "SPDX-")):
            continue
        line = token.start[0]
        if block and line != last + 1:
            yield first, "\n".join(block)
            block = []
        first = line if not block else first
        block.append(note)
        last = line
    if block:
        yield first, "\n".join(block)


def sentences(text: str) -> Iterator[str]:
    """Split a text into sentences; list items are separate, and indented code is left out."""
    for paragraph in re.split(r"\n\s*\n", textwrap.dedent(text)):
        if paragraph.startswith("    "):
            continue
        items: list[str] = []
        for line in paragraph.splitlines():
            if items and not ITEM.match(line.strip()):
                items[-1] += f" {line.strip()}"
            else:
                items.append(line.strip())
        for item in items:
            yield from END.split(item)


@pytest.mark.parametrize("folder", FOLDERS)
def test_sentences_are_short_and_plain(folder):
    found = []
    for place, text in all_texts(folder):
        for sentence in sentences(text):
            words = len(sentence.split())
            if words > MOST_WORDS:
                found.append(f"{place}: {words} words: {sentence}")
            if shape := EXCLUDED.search(sentence):
                found.append(f"{place}: {shape[0]!r}: {sentence}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two words; three.", ["One.", "Two words;", "three."]),
        ("Head\n\nname: first\n    goes on\n- item", ["Head", "name: first goes on", "- item"]),
        ("Head\n\n    code. More code\n\nTail", ["Head", "Tail"]),
    ],
)
def test_a_text_is_split_into_sentences(text, expected):
    assert list(sentences(text)) == expected


def test_docstrings_and_comment_blocks_are_found():
    source = '"""Doc."""\n# one\n# block\n\nx = 1  # fmt: skip\n\n\ndef f():\n    """Inner."""\n'
    assert sorted(texts(source)) == [(1, "Doc."), (2, "one\nblock"), (9, "Inner.")]


def test_an_excluded_shape_is_found():
    assert EXCLUDED.search("A wrong value is no reason")
    assert not EXCLUDED.search("None if there is no reason")
