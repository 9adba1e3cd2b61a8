# SPDX-License-Identifier: Apache-2.0
"""Check the measurable part of CONTRIBUTING.md's prose rules: docstrings, comments, documents."""

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
END = re.compile(r"(?<=[.!?;])[\"')*]*\s+(?=[A-Z`\"'(\[0-9<*a-z-])")
# A new item: a list mark, a field such as `name: text`, or a note behind a code line.
ITEM = re.compile(r"(- |\d\. |[\w`*.\[\]]+(, [\w`*.\[\]]+)*: |Returns |Raises )")
# Shapes that CONTRIBUTING.md excludes.
EXCLUDED = re.compile(
    r"\b((?<!there )(is|are) no(?! longer)|all the same|such an? one|for it is|of which the)\b",
    re.IGNORECASE,
)
# First words of a docstring that describes instead of saying what the code does.
DESCRIBING = re.compile(
    r"(The|A|An|All|As|By|Each|Every|How|If|It|Of|One|There|This|What|When|Where|Whether|Which|Why)\b"
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def all_texts(folder: str) -> Iterator[tuple[str, str]]:
    """Yield (path:line, text) of each docstring and block of comments in a folder."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for line, text in texts(path.read_text()):
            yield f"{path.relative_to(ROOT)}:{line}", text


def documents() -> list[Path]:
    folders = (ROOT, ROOT / "docs", ROOT / "bench" / "gpu", ROOT / "sglang_gemma4_ext/demo/model")
    return [path for folder in folders for path in sorted(folder.glob("*.md"))]


def prose_of(document: str) -> str:
    """Return a Markdown document without code, comments, tables and headings."""
    document = re.sub(r"```.*?```|<!--.*?-->", "", document, flags=re.DOTALL)
    return "\n".join(line for line in document.split("\n") if not line.startswith(("|", "#")))


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


def faults(place: str, text: str) -> Iterator[str]:
    for sentence in sentences(text):
        words = len(sentence.split())
        if words > MOST_WORDS:
            yield f"{place}: {words} words: {sentence}"
        if shape := EXCLUDED.search(sentence):
            yield f"{place}: {shape[0]!r}: {sentence}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_and_comments_are_short_and_plain(folder):
    found = [fault for place, text in all_texts(folder) for fault in faults(place, text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_documents_are_short_and_plain(path):
    found = list(faults(path.name, prose_of(path.read_text())))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_begin_with_a_verb(folder):
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, DOCUMENTED) or getattr(node, "name", "").startswith("test_"):
                continue
            if DESCRIBING.match(text := ast.get_docstring(node) or ""):
                found.append(f"{path.relative_to(ROOT)}:{node.body[0].lineno}: {text}")
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


def test_code_and_tables_of_a_document_are_left_out():
    document = "# Head\n\nText.\n\n```\ncode\n```\n| a | b |\n<!-- note -->\nMore."
    assert prose_of(document).split() == ["Text.", "More."]


def test_docstrings_and_comment_blocks_are_found():
    source = '"""Doc."""\n# one\n# block\n\nx = 1  # fmt: skip\n\n\ndef f():\n    """Inner."""\n'
    assert sorted(texts(source)) == [(1, "Doc."), (2, "one\nblock"), (9, "Inner.")]


def test_an_excluded_shape_is_found():
    assert EXCLUDED.search("A wrong value is no reason")
    assert not EXCLUDED.search("None if there is no reason")
    assert not EXCLUDED.search("It is no longer needed")
