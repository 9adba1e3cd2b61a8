# SPDX-License-Identifier: Apache-2.0
"""Read a delimited string as it arrives, and find its end if a delimiter was left out.

A delimiter closes the string where a value may end behind it. Elsewhere it opens the next value if
the text before it reads `,key:`; otherwise it is text. Therefore an end of a string that reads
`,key:` waits for what follows. So do closing brackets, which may be the call's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Sequence

from sglang_gemma4_ext.chat.errors import BrokenCall, CutCall
from sglang_gemma4_ext.chat.markers import CALL_CLOSE, CALL_OPEN, QUOTE, partial_marker
from sglang_gemma4_ext.chat.reader import Reader, Wait
from sglang_gemma4_ext.chat.repair import closes
from sglang_gemma4_ext.chat.tools import Node, delimited_json

_MOST_TAIL = 96
_NEXT_KEY = re.compile(r",\s{0,8}([^\W\d][\w.\-]{0,63})\s{0,8}:\s{0,8}")
_NEXT_KEY_START = re.compile(r",\s{0,8}(?:[^\W\d][\w.\-]{0,63}\s{0,8}(?::\s{0,8})?)?")
_NEXT_ELEMENT = re.compile(r",\s{0,8}")
_CLOSING = re.compile(r"[}\])\s]{1,16}$")


class Strings:
    """Read strings. closers: the brackets open around the string, the innermost last."""

    def __init__(self, reader: Reader, emit: Callable[[str], None], closers: Sequence[str]):
        self._reader, self._emit, self._closers = reader, emit, closers

    def value(self, node: Node, parent: Node) -> Wait:
        """Take a string whose opening delimiter is taken.

        Raises CutCall if the text ends within it, BrokenCall if it cannot have ended.
        """
        self._parent = parent
        self._has_literals = False
        if node.takes_text:
            self._emit('"')
            yield from self._text(lambda text: self._emit(_escaped(text)))
            self._emit('"')
        else:
            pieces: list[str] = []
            yield from self._text(pieces.append)
            self._emit(delimited_json("".join(pieces), node))

    def _text(self, give: Callable[[str], None]) -> Wait:
        reader = self._reader
        while True:
            end = reader.text.find(QUOTE, reader.pos)
            close = reader.text.find(CALL_CLOSE, reader.pos, None if end < 0 else end)
            if close >= 0:
                if (yield from self._ends_before(close, give)):
                    return
                continue
            if end < 0:
                if reader.ended:
                    raise CutCall
                give(reader.take(self._certain() - reader.pos))
                yield
                continue
            give(reader.take(self._tail(end) - reader.pos))
            is_closer = yield from closes(reader, end - reader.pos + len(QUOTE))
            end = reader.text.find(QUOTE, reader.pos)
            if is_closer:
                give(reader.take(end - reader.pos))
                reader.take(len(QUOTE))
                return
            if self._next_value_begins(end):
                return
            self._has_literals = True
            give(reader.take(end - reader.pos + len(QUOTE)))

    def _next_value_begins(self, end: int) -> bool:
        """Tell whether `,key:` (in an array `,`) stands before the delimiter at `end`."""
        text, start = self._reader.text, self._reader.pos
        if self._closers[-1] == "]":
            return _NEXT_ELEMENT.fullmatch(text, start, end) is not None
        found = _NEXT_KEY.fullmatch(text, start, end)
        return found is not None and self._parent.may_have_member(found.group(1))

    def _certain(self) -> int:
        """Return up to where the present text belongs to the string, whatever follows."""
        text = self._reader.text
        end = len(text) - partial_marker(text, self._reader.pos)
        return min(self._tail(end), self._closing(end))

    def _tail(self, end: int) -> int:
        text = self._reader.text
        comma = text.rfind(",", max(self._reader.pos, end - _MOST_TAIL), end)
        pattern = _NEXT_ELEMENT if self._closers[-1] == "]" else _NEXT_KEY_START
        if comma >= 0 and pattern.fullmatch(text, comma, end):
            return comma
        return end

    def _closing(self, end: int) -> int:
        start = max(self._reader.pos, end - 16)
        found = _CLOSING.search(self._reader.text[start:end])
        return start + found.start() if found else end

    def _ends_before(self, close: int, give: Callable[[str], None]) -> Generator[None, None, bool]:
        """Take text; tell whether the string ends before an end of a call that stands in it.

        That end is text if a delimiter closes the string later.
        """
        reader = self._reader
        give(reader.take(self._closing(close) - reader.pos))
        held = [reader.take(close - reader.pos + len(CALL_CLOSE), record=False)]
        while (end := reader.text.find(QUOTE, reader.pos)) < 0 and not reader.ended:
            size = reader.left - partial_marker(reader.text, reader.pos)
            held.append(reader.take(size, record=False))
            yield
        is_text = False
        if end >= 0:
            held.append(reader.take(end - reader.pos, record=False))
            is_text = yield from closes(reader, len(QUOTE))
        text = "".join(held)
        own = self._own_closers(text)
        if own is not None and not is_text and (end < 0 or CALL_OPEN in text):
            reader.unread(text)
            if self._has_literals:
                raise BrokenCall
            give(reader.take(own))
            return True
        if end < 0:
            raise CutCall
        reader.record.append(text)
        give(text)
        return False

    def _own_closers(self, text: str) -> int | None:
        """Find the brackets in `text` that close the call before its end, or None."""
        before = text[: text.index(CALL_CLOSE)]
        pattern = r"\s*".join(re.escape(closer) for closer in reversed(self._closers)) + r"\s*$"
        found = re.search(pattern, before)
        return found.start() if found else None


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
