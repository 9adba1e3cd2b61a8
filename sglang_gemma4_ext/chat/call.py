# SPDX-License-Identifier: Apache-2.0
"""Parse one tool call, `call:NAME{key:value,...}`, into JSON as it arrives.

The grammar is that of the official chat template. Strings stand between `<|"|>` with nothing
escaped, keys are bare text, numbers and words are JSON's. A call of that grammar is parsed exactly.
Where a model deviated, `repair` mends text that has one reading; all else raises BrokenCall.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator

from sglang_gemma4_ext.chat import repair
from sglang_gemma4_ext.chat.ebnf import is_text
from sglang_gemma4_ext.chat.errors import BrokenCall, CutCall, LeftOpen
from sglang_gemma4_ext.chat.markers import (
    CALL_ENDS,
    LONGEST,
    MARKER,
    QUOTE,
    partial_marker,
)
from sglang_gemma4_ext.chat.reader import Reader, Wait
from sglang_gemma4_ext.chat.strings import Strings
from sglang_gemma4_ext.chat.tools import Node, Tools, bare_json, delimited_json, quoted

MOST_LEVELS = 64
MOST_KEY = 256
MOST_HEADER = 320
SPACES = re.compile(r"\s*")
_NAME = re.compile(r"\w[\w.\-/:]{0,255}")
# The parts of a key that need no repair when they are read.
KEY_EDGE = "[^\\x00-\\x20:{},\\[\\]<\"']"
KEY_INNER = "[^\\x00-\\x1f:{},\\[\\]<\"']"
_KEY = re.compile(f"{KEY_EDGE}(?:{KEY_INNER}*{KEY_EDGE})?")
_HEADER_RUN = re.compile(r"[\w.\-/:\s]*")
_HEADER = re.compile(r"\s*(?:call\s*:|:)?\s*(\w[\w.\-/:]*)\s*")
_HEADER_START = re.compile(r"\s*(?:call\s*:|:)?\s*(?:\w[\w.\-/:]*)?\s*")
_KEY_RUN = re.compile(r'[^:{}\[\],"<\n]*')
_CLOSERS = {"{": "}", "[": "]", "(": ")"}

Emit = Callable[[str], None]


def is_name(text: str) -> bool:
    """Tell whether a call can hold a tool of this name."""
    return _NAME.fullmatch(text) is not None


def is_key(text: str) -> bool:
    """Tell whether a call can hold a key of this name."""
    return len(text) <= MOST_KEY and is_text(text) and _KEY.fullmatch(text) is not None


class CallParser:
    """Parse the parts of a call, as generators over one reader; JSON fragments go to `emit`."""

    def __init__(self, reader: Reader, tools: Tools, emit: Emit):
        self.reader, self.tools, self.emit = reader, tools, emit
        self._closers: list[str] = []
        self._strings = Strings(reader, emit, self._closers)

    def header(self) -> Generator[None, None, str]:
        """Take everything up to the opening brace; return the tool's name."""
        reader = self.reader
        size = yield from reader.wait_past(_HEADER_RUN, MOST_HEADER)
        if reader.ended and size == reader.left:
            run = reader.take(size)
            raise CutCall if _HEADER_START.fullmatch(run) else BrokenCall
        found = _HEADER.fullmatch(reader.text, reader.pos, reader.pos + size)
        if found is None or not reader.text.startswith(("{", "("), reader.pos + size):
            raise BrokenCall
        reader.take(size)
        return found.group(1)

    def arguments(self, name: str) -> Wait:
        """Take the braces and everything between them."""
        self._closers.clear()
        node = self.tools.arguments(name)
        try:
            yield from self._members(node)
        except LeftOpen:
            self.emit("".join("]" if closer == "]" else "}" for closer in reversed(self._closers)))
            self._closers.clear()

    def _members(self, node: Node) -> Wait:
        self._enter()
        self.emit("{")
        first = True
        while not (yield from self._at_close()):
            key = yield from self._key(node)
            self.emit(("" if first else ", ") + quoted(key) + ": ")
            first = False
            yield from self._value(node.member(key), node)
            yield from self._separator()
        self.emit("}")

    def _elements(self, node: Node) -> Wait:
        self._enter()
        self.emit("[")
        first = True
        while not (yield from self._at_close()):
            if not first:
                self.emit(", ")
            first = False
            yield from self._value(node.element(), node)
            yield from self._separator()
        self.emit("]")

    def _enter(self) -> None:
        if len(self._closers) == MOST_LEVELS:
            raise BrokenCall
        self._closers.append(_CLOSERS[self.reader.take(1)])

    def _at_close(self) -> Generator[None, None, bool]:
        """Tell whether this level ends here, and take its closer."""
        yield from self._skip_spaces()
        reader = self.reader
        if reader.next_is(self._closers[-1]):
            reader.take(1)
            self._closers.pop()
            return True
        yield from self._check_left_open()
        return False

    def _separator(self) -> Wait:
        """Take the comma behind a value; a stray delimiter before it belongs to the value."""
        yield from self._skip_spaces()
        reader = self.reader
        if reader.next_is("<"):
            yield from reader.wait_for(len(QUOTE))
            if reader.next_is(QUOTE) and (yield from repair.closes(reader, len(QUOTE))):
                reader.take(len(QUOTE))
                yield from self._skip_spaces()
        if reader.next_is(","):
            reader.take(1)
        elif not reader.next_is(self._closers[-1]):
            yield from self._check_left_open()
            raise BrokenCall

    def _check_left_open(self) -> Wait:
        found = yield from repair.marker_here(self.reader)
        if found in CALL_ENDS:
            raise LeftOpen
        if found is not None and found != QUOTE:
            raise BrokenCall

    def _skip_spaces(self) -> Wait:
        reader = self.reader
        while True:
            spaces = SPACES.match(reader.text, reader.pos)
            reader.take(spaces.end() - reader.pos if spaces else 0)
            if reader.left:
                return
            if reader.ended:
                raise CutCall
            yield

    def _key(self, node: Node) -> Generator[None, None, str]:
        reader = self.reader
        if reader.next_is("<"):
            yield from reader.wait_for(len(QUOTE))
            if not reader.next_is(QUOTE):
                raise BrokenCall
            key = yield from self._key_between(QUOTE)
        elif reader.next_is('"', "'"):
            key = yield from self._key_between(reader.text[reader.pos])
        else:
            size = yield from reader.wait_past(_KEY_RUN, MOST_KEY)
            key = reader.take(size).strip()
        yield from self._skip_spaces()
        if not key or not reader.next_is(":"):
            raise BrokenCall
        reader.take(1)
        return key

    def _key_between(self, quote: str) -> Generator[None, None, str]:
        reader = self.reader
        reader.take(len(quote))
        stops = re.compile(f"{quote}|{MARKER.pattern}" if len(quote) == 1 else MARKER)
        while True:
            found = stops.search(reader.text, reader.pos)
            certain = len(reader.text) - partial_marker(reader.text, reader.pos)
            if found and (reader.ended or found.end() <= certain):
                if found.group() != quote or found.start() - reader.pos > MOST_KEY:
                    raise BrokenCall
                key = reader.take(found.start() - reader.pos)
                reader.take(len(quote))
                return key
            if reader.left > MOST_KEY + LONGEST:
                raise BrokenCall
            if reader.ended:
                raise CutCall
            yield

    def _value(self, node: Node, parent: Node) -> Wait:
        yield from self._skip_spaces()
        reader = self.reader
        if reader.next_is("{"):
            yield from self._members(node)
        elif reader.next_is("["):
            yield from self._elements(node)
        elif reader.next_is('"', "'"):
            text = yield from repair.quoted_value(reader)
            self.emit(delimited_json(text, node))
        else:
            if reader.next_is("<"):
                yield from reader.wait_for(len(QUOTE))
            if reader.next_is(QUOTE):
                reader.take(len(QUOTE))
                yield from self._strings.value(node, parent)
            else:
                yield from self._bare(node, parent)

    def _bare(self, node: Node, parent: Node) -> Wait:
        bare = repair.Bare(self.reader, self._closers, node, parent)
        text = yield from bare.value()
        literal = None if bare.was_delimited else bare_json(text, node)
        if literal is None and not text and not node.takes_text:
            raise BrokenCall
        self.emit(quoted(text) if literal is None else literal)
