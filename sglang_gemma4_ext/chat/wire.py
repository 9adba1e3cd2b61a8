# SPDX-License-Identifier: Apache-2.0
"""Pass the calls of a turn from one parser to another through text.

SGLang runs a turn through two parsers with a string between them. The parser for reasoning reads
the turn; the parser for calls gets the rest. Noncharacters of Unicode, which no
tokenizer writes, frame the calls in the string, so that they need no second reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sglang_gemma4_ext.chat.events import Call, Event, Text, Thought

_BEGIN, _ARGUMENTS, _END, _LEFT_OPEN = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
_FRAMES = re.compile("[\ufdd0-\ufdd3]")


def has_calls(text: str) -> bool:
    return _BEGIN in text


def without_frames(text: str) -> str:
    """Remove frames from the model's own text, where they have no meaning."""
    return _FRAMES.sub("", text)


class Encoder:
    """Encode texts and calls as a string; thoughts are not part of it."""

    def __init__(self) -> None:
        self._in_call = False

    def encode(self, events: Iterable[Event]) -> str:
        """Encode the next events of a turn; a call may continue in the next call of this method."""
        parts = []
        for event in events:
            if isinstance(event, Thought):
                continue
            begins = isinstance(event, Text) or event.name is not None
            if begins and self._in_call:
                parts.append(_LEFT_OPEN)
            if isinstance(event, Text):
                self._in_call = False
                parts.append(event.text)
                continue
            if event.name is not None:
                parts += [_BEGIN, event.name, _ARGUMENTS]
            parts += [event.arguments, _END if event.is_last else ""]
            self._in_call = not event.is_last
        return "".join(parts)


class Decoder:
    """Decode the events. open_calls: the calls that were left open."""

    def __init__(self) -> None:
        self.open_calls: set[int] = set()
        self._calls = 0
        self._name: str | None = None
        self._in_call = False

    def decode(self, text: str) -> list[Event]:
        """Decode the next piece of the string to texts and calls."""
        events: list[Event] = []
        start = 0
        for frame in _FRAMES.finditer(text):
            self._add(events, text[start : frame.start()], frame.group())
            start = frame.end()
        self._add(events, text[start:], "")
        return events

    def finish(self) -> None:
        if self._in_call:
            self.open_calls.add(self._calls - 1)

    def _add(self, events: list[Event], text: str, frame: str) -> None:
        """Add the event that `frame` ends; the frame "" ends a piece of the string."""
        if self._name is not None:
            self._name += text
        elif self._in_call:
            if text or frame == _END:
                events.append(Call(self._calls - 1, None, text, is_last=frame == _END))
        elif text:
            events.append(Text(text))
        if frame == _BEGIN:
            self._name = ""
        elif frame == _ARGUMENTS and self._name is not None:
            events.append(Call(self._calls, self._name, "", is_last=False))
            self._calls, self._name, self._in_call = self._calls + 1, None, True
        elif frame == _LEFT_OPEN:
            self.finish()
        if frame in (_END, _LEFT_OPEN):
            self._in_call = False
