# SPDX-License-Identifier: Apache-2.0
"""Parse values outside the grammar: without delimiters, with one, or with other quotes.

What follows a value decides how it is parsed: `,`, a closer, or a control token. Every look-ahead
is bounded, so parsing stays linear and does not depend on how the text was cut into chunks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence

from sglang_gemma4_ext.chat.errors import BrokenCall, CutCall
from sglang_gemma4_ext.chat.markers import (
    CALL_CLOSE,
    CALL_ENDS,
    LONGEST,
    MARKER,
    QUOTE,
    partial_marker,
)
from sglang_gemma4_ext.chat.reader import Reader
from sglang_gemma4_ext.chat.tools import Node, bare_json

MOST_AHEAD = 96
_SPACES = re.compile(r"\s*")
_MOST_SPACES = 32
_STOP = re.compile(r"[,}\])<]")
_NEXT_KEY = re.compile(
    r""",\s{0,8}(?:([^\W\d][\w.\-]{0,63})\s{0,8}:|<\|"\|>|["'}\])])""",
)
_NEXT_KEY_START = re.compile(r""",\s{0,8}(?:[^\W\d][\w.\-]{0,63}\s{0,8})?|,\s{0,8}<[|"]{0,3}""")
_CALL_WORD = "call:"


def marker_here(reader: Reader) -> Generator[None, None, str | None]:
    """Return the control token at `pos`, if any; wait while the text may still become one."""
    while True:
        found = MARKER.match(reader.text, reader.pos)
        if found:
            return found.group()
        here = reader.text[reader.pos : reader.pos + LONGEST]
        if reader.ended or (here and partial_marker(here) != len(here)):
            return None
        yield


def closes(reader: Reader, skip: int) -> Generator[None, None, bool]:
    """Tell whether the text `skip` characters ahead can follow a value.

    That is the end of the text, a comma, a closing bracket or a control token, after optional
    spaces.
    """
    ahead = skip
    while True:
        found = _SPACES.match(reader.text, reader.pos + ahead)
        at = found.end() if found else reader.pos + ahead
        if at - reader.pos - skip > _MOST_SPACES:
            return False
        rest = reader.text[at : at + LONGEST]
        if rest[:1] in (",", "}", "]", ")"):
            return True
        if rest:
            found = MARKER.match(rest)
            if found:
                return found.group() in CALL_ENDS
            if partial_marker(rest) != len(rest):
                return False
        if reader.ended:
            return not rest
        yield


class Bare:
    """Parse a value without an opening delimiter: a JSON word, or text up to what ends it.

    was_delimited: a closing delimiter ended it
    """

    def __init__(self, reader: Reader, closers: Sequence[str], node: Node, parent: Node):
        self._reader, self._closers, self._node, self._parent = reader, closers, node, parent
        self._pieces: list[str] = []
        self._may_be_word = True
        self.was_delimited = False

    def value(self) -> Generator[None, None, str]:
        """Take the value. Raises BrokenCall if it has no reading, CutCall if the text ends."""
        reader = self._reader
        while True:
            stop = _STOP.search(reader.text, reader.pos)
            size = (stop.start() if stop else len(reader.text)) - reader.pos
            self._pieces.append(reader.take(size))
            if stop is None:
                if reader.ended:
                    raise CutCall
                yield
                continue
            if (yield from self._ends_here(stop.group())):
                return "".join(self._pieces).strip()
            self._pieces.append(reader.take(1))
            self._may_be_word = False

    def _ends_here(self, stop: str) -> Generator[None, None, bool]:
        if stop == "<":
            return (yield from self._at_marker())
        if stop == self._closers[-1] or (stop == "," and self._closers[-1] == "]"):
            if stop == "," or self._is_word():
                return True
            return (yield from self._closing_is_followed_well())
        if stop == ",":
            return self._is_word() or (yield from self._key_follows())
        return False

    def _is_word(self) -> bool:
        """Tell whether this is a JSON word already, whatever follows."""
        if not self._may_be_word:
            return False
        return bare_json("".join(self._pieces).strip(), self._node) is not None

    def _at_marker(self) -> Generator[None, None, bool]:
        reader = self._reader
        found = yield from marker_here(reader)
        if found is None:
            return False
        text = "".join(self._pieces).strip()
        if found in CALL_ENDS and text and not any(bracket in text for bracket in "{}[]"):
            return True
        if found != QUOTE or not text:
            raise BrokenCall
        if not (yield from closes(reader, len(QUOTE))):
            raise BrokenCall
        reader.take(len(QUOTE))
        self.was_delimited = True
        return True

    def _closing_is_followed_well(self) -> Generator[None, None, bool]:
        if len(self._closers) == 1:
            yield from self._reader.wait_for(1 + len(_CALL_WORD))
            if self._reader.text.startswith(_CALL_WORD, self._reader.pos + 1):
                return True
        return (yield from closes(self._reader, 1))

    def _key_follows(self) -> Generator[None, None, bool]:
        reader = self._reader
        while True:
            found = _NEXT_KEY.match(reader.text, reader.pos)
            if found:
                return found.group(1) is None or self._parent.may_have_member(found.group(1))
            here = reader.text[reader.pos : reader.pos + MOST_AHEAD]
            open_end = _NEXT_KEY_START.fullmatch(here) and len(here) < MOST_AHEAD
            if reader.ended or not open_end:
                return False
            yield


def quoted_value(reader: Reader) -> Generator[None, None, str]:
    """Take a value in JSON's or Python's quotes.

    A quote closes it where a value may end; any other quote belongs to the text. Raises BrokenCall
    if the call ends first, CutCall if the text does.
    """
    quote = reader.take(1)
    stops = re.compile(f"{quote}|{re.escape(CALL_CLOSE)}")
    pieces: list[str] = []
    while True:
        stop = stops.search(reader.text, reader.pos)
        end = stop.start() if stop else len(reader.text) - partial_marker(reader.text, reader.pos)
        pieces.append(reader.take(end - reader.pos))
        if stop is None:
            if reader.ended:
                raise CutCall
            yield
            continue
        if stop.group() == CALL_CLOSE:
            raise BrokenCall
        if not _is_escaped(pieces) and (yield from _quote_closes(reader)):
            reader.take(1)
            return _unescaped("".join(pieces), quote)
        pieces.append(reader.take(1))


def _quote_closes(reader: Reader) -> Generator[None, None, bool]:
    yield from reader.wait_for(1 + len(QUOTE))
    if reader.text.startswith(QUOTE, reader.pos + 1):
        return (yield from closes(reader, 1 + len(QUOTE)))
    return (yield from closes(reader, 1))


def _is_escaped(pieces: Sequence[str]) -> bool:
    count = 0
    for piece in reversed(pieces):
        bare = piece.rstrip("\\")
        count += len(piece) - len(bare)
        if bare:
            break
    return count % 2 == 1


def _unescaped(text: str, quote: str) -> str:
    """Resolve JSON's escapes in the text; leave it unchanged if they are not JSON's."""
    if "\\" not in text:
        return text
    inner = text if quote == '"' else text.replace("\\'", "'").replace('"', '\\"')
    try:
        return json.loads(f'"{inner}"', strict=False)
    except ValueError:
        return text
