# SPDX-License-Identifier: Apache-2.0
"""Give out texts, thoughts and calls of a turn, without the layout between them."""

from __future__ import annotations

from collections.abc import Iterable

from sglang_gemma4_ext.chat import markers as m
from sglang_gemma4_ext.chat.events import Call, Event, JoinedThoughts, Text, Thought


class Output:
    """Collect the events of a turn until they are taken.

    is_verbatim: thoughts are taken out, and all else is given as it was read, calls as their text.
    """

    def __init__(self, is_verbatim: bool):
        self.is_verbatim = is_verbatim
        self._events: list[Event] = []
        self._thoughts = JoinedThoughts()
        # White space behind a call, until something else follows.
        self._spaces: str | None = None

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def text(self, text: str) -> None:
        """Give out text; white space between calls is layout and is left out."""
        if self._spaces is not None:
            self._spaces += text
            if self._spaces.isspace() or not self._spaces:
                return
            text, self._spaces = self._spaces, None
        if text:
            self._events.append(Text(text))

    def marker(self, marker: str) -> None:
        """Give out a control token without a meaning here; a string delimiter is a quote."""
        if self.is_verbatim:
            self.text(marker)
        elif marker == m.QUOTE:
            self.text('"')

    def begin_thought(self) -> None:
        self._thoughts.begin()

    def thought(self, text: str) -> None:
        text = self._thoughts.add(text)
        if text:
            self._events.append(Thought(text))

    def calls(self, calls: Iterable[Call]) -> None:
        """Give out the parts of calls that are certain by now."""
        calls = list(calls)
        if not self.is_verbatim:
            self._spaces = "" if calls else self._spaces
            self._events += calls

    def read_calls(self, record: Iterable[str]) -> None:
        """Give out the text in which calls were read, where all is verbatim."""
        if self.is_verbatim:
            self.text("".join(record))

    def broken(self, text: str) -> None:
        """Give out what looked like a call and is text."""
        if not self.is_verbatim:
            self.text(m.without_markers(text))

    def keep_spaces(self) -> None:
        """Keep the white space that follows: it is text."""
        self._spaces = None
