# SPDX-License-Identifier: Apache-2.0
"""Tell control tokens from ordinary text that reads like one, by the ids of the tokens.

In a string a model may write `<|"|>` with ordinary tokens. As text that is the delimiter's own
spelling. A noncharacter of Unicode before its last character keeps parsers from taking it for one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from sglang_gemma4_ext.chat.markers import LONGEST, MARKER

MARK = "\ufdd4"

Decode = Callable[[Sequence[int]], str]


def without_marks(text: str) -> str:
    """Return the text as the model wrote it."""
    return text.replace(MARK, "") if MARK in text else text


class Literals:
    """Marks literals in one choice of a request, while its text and its ids arrive.

    controls: the ids of control tokens, with their text. decode: the text of ordinary tokens.
    """

    def __init__(self, controls: Mapping[int, str], decode: Decode):
        self._controls, self._decode = controls, decode
        # What reads like a control token in the ids at hand: its text, and whether it is one.
        self._found: deque[tuple[str, bool]] = deque()
        self._unread: list[int] = []
        self._segment: list[int] = []
        self._before = ""
        self._is_lost = False

    def mark(self, text: str, ids: Sequence[int], *, is_cut: bool = False) -> str:
        """Return `text`, which follows the text before it, with its literals marked.

        ids: the tokens since the last call; they may be ahead of the text, never behind it. is_cut:
        the text may lack the end of what the tokens say.
        """
        self._unread += ids
        joined = self._before + text
        known = len(self._before)
        self._before = joined[-(LONGEST - 1) :]
        places = [m for m in MARKER.finditer(joined) if m.end() > known]
        if not places or self._is_lost:
            return text
        kinds = [self._controls[i] for i in self._unread if i in self._controls]
        if not is_cut and not self._found and kinds == [m.group() for m in places]:
            self._skip()
            return text
        self._read()
        pieces, start = [], known
        for place in places:
            if self._is_literal(place.group()):
                pieces += [joined[start : place.end() - 1], MARK]
                start = place.end() - 1
        return "".join(pieces) + joined[start:]

    def _is_literal(self, text: str) -> bool:
        """Tell whether the next thing that reads like a control token is ordinary text."""
        if self._is_lost or not self._found or self._found[0][0] != text:
            # Text and ids do not agree: the text is read as it stands from here on.
            self._is_lost = True
            return False
        return not self._found.popleft()[1]

    def _skip(self) -> None:
        """Forget the unread ids up to their last control token."""
        last = max(i for i, token in enumerate(self._unread) if token in self._controls)
        self._unread, self._segment = self._unread[last + 1 :], []

    def _read(self) -> None:
        plain: list[int] = []
        for token in self._unread:
            if token in self._controls:
                self._read_plain(plain)
                self._found.append((self._controls[token], True))
                plain, self._segment = [], []
            else:
                plain.append(token)
        self._read_plain(plain)
        self._segment = (self._segment + plain)[-LONGEST:]
        self._unread.clear()

    def _read_plain(self, ids: Sequence[int]) -> None:
        """Note what reads like a control token in the segment and ends in these tokens."""
        if not ids:
            return
        old = len(MARKER.findall(self._decode(self._segment))) if self._segment else 0
        found = MARKER.findall(self._decode([*self._segment, *ids]))
        self._found += [(text, False) for text in found[old:]]
