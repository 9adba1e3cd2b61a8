# SPDX-License-Identifier: Apache-2.0
"""Read one turn of the model as it arrives: thoughts, text and calls in one state machine.

Complete and streamed answers come from the same machine and are therefore equal. No state is kept
between turns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from enum import Enum
from typing import Literal

from sglang_gemma4_ext.chat import markers as m
from sglang_gemma4_ext.chat.calls import Calls
from sglang_gemma4_ext.chat.errors import BrokenCall, CutCall
from sglang_gemma4_ext.chat.events import Event
from sglang_gemma4_ext.chat.output import Output
from sglang_gemma4_ext.chat.reader import Reader, Wait
from sglang_gemma4_ext.chat.repair import marker_here
from sglang_gemma4_ext.chat.tools import Tools
from sglang_gemma4_ext.chat.unmarked import called_name

_SPACES = re.compile(r"\s*")
_MOST_SPACES = 32


CallsAs = Literal["read", "text", "verbatim"]


class Start(Enum):
    """Tell what a turn begins with.

    CONTENT: anything. THOUGHT: the thought that the prompt opened.
    """

    CONTENT = "content"
    THOUGHT = "thought"


class Turn:
    """Parse a turn: feed() takes text and returns certain events; finish() returns the rest.

    calls: `read` emits Call events. `text` emits calls as text without control tokens, for a
        request without tools. `verbatim` takes out only thoughts and leaves everything else
        unchanged, including control tokens.
    """

    def __init__(
        self,
        tools: Tools | None = None,
        start: Start = Start.CONTENT,
        *,
        calls: CallsAs = "read",
    ):
        self._tools = tools or Tools()
        self._reads_calls = calls != "text"
        self._reader = Reader()
        self._calls = Calls(self._reader, self._tools)
        self._out = Output(is_verbatim=calls == "verbatim")
        self._machine: Wait | None = self._run(start)

    @property
    def open_calls(self) -> set[int]:
        """Return calls that were emitted in part and then cut off, or were not calls in the end."""
        return self._calls.open_calls

    def feed(self, chunk: str) -> list[Event]:
        self._reader.feed(chunk)
        return self._advance()

    def finish(self) -> list[Event]:
        self._reader.ended = True
        return self._advance()

    def _advance(self) -> list[Event]:
        if self._machine is not None:
            try:
                next(self._machine)
            except StopIteration:
                self._machine = None
        return self._out.take()

    def _run(self, start: Start) -> Wait:
        if start is Start.CONTENT and (yield from self._starts_with_label()):
            start = Start.THOUGHT
        if start is Start.THOUGHT:
            yield from self._thought()
        is_fresh = True
        while True:
            if is_fresh and (yield from self._unmarked_call()):
                continue
            is_fresh = False
            found = yield from self._up_to_marker(self._out.text)
            if found is None:
                return
            if found == m.CALL_OPEN and self._reads_calls:
                yield from self._call()
                is_fresh = True
            elif found == m.THOUGHT_OPEN:
                self._reader.take(len(found))
                yield from self._thought()
                is_fresh = True
            elif found in m.TURN_ENDS:
                yield from self._drain(found)
                return
            else:
                self._reader.take(len(found))
                self._out.marker(found)

    def _up_to_marker(self, give: Callable[[str], None]) -> Generator[None, None, str | None]:
        """Emit the text up to the next control token; return the token, or None at the end."""
        reader = self._reader
        while True:
            found = m.MARKER.search(reader.text, reader.pos)
            if found:
                give(reader.take(found.start() - reader.pos))
                return found.group()
            held = 0 if reader.ended else m.partial_marker(reader.text, reader.pos)
            give(reader.take(reader.left - held))
            if reader.ended:
                return None
            yield

    def _drain(self, found: str) -> Wait:
        """Read past the end of the turn; text behind it is not the model's answer."""
        if self._out.is_verbatim:
            self._out.text(found)
        while not self._reader.ended:
            self._reader.take(self._reader.left, record=False)
            yield

    def _starts_with_label(self) -> Generator[None, None, bool]:
        """Tell whether the turn starts with the label of a thought without its opening token."""
        reader = self._reader
        while reader.left < len(m.THOUGHT_LABEL) and not reader.ended:
            if not m.THOUGHT_LABEL.startswith(reader.text[reader.pos :]):
                return False
            yield
        return reader.next_is(m.THOUGHT_LABEL)

    def _thought(self) -> Wait:
        """Read a thought to its closing token, or to a call or the end of the turn."""
        reader = self._reader
        self._out.begin_thought()
        yield from self._skip_label()
        while True:
            found = yield from self._up_to_marker(self._out.thought)
            if found is None or found in m.TURN_ENDS:
                return
            if found == m.CALL_OPEN and not self._reads_calls:
                return
            if found == m.CALL_OPEN:
                if (yield from self._call_in_thought()):
                    return
                continue
            reader.take(len(found))
            if found == m.THOUGHT_CLOSE:
                return
            if found == m.THOUGHT_OPEN:
                yield from self._skip_label()
            elif found == m.QUOTE:
                self._out.thought('"')

    def _skip_label(self) -> Wait:
        reader = self._reader
        if (yield from self._starts_with_label()):
            reader.take(len(m.THOUGHT_LABEL))
        elif reader.ended and m.THOUGHT_LABEL.startswith(reader.text[reader.pos :]):
            reader.take(reader.left)

    def _call(self) -> Wait:
        """Read the calls of one pair of tokens; what cannot be parsed as a call is text."""
        self._open_pair()
        pair = self._calls.read()
        try:
            while _goes_on(pair):
                self._out.calls(self._calls.certain())
                yield
        except BrokenCall:
            self._out.keep_spaces()
            self._out.calls(self._calls.certain())
            self._out.broken(self._calls.drop())
        except CutCall:
            self._reader.take(self._reader.left)
            self._out.calls(self._calls.certain())
            self._calls.drop()
        else:
            self._out.calls(self._calls.certain())
        self._out.read_calls(self._reader.record)

    def _call_in_thought(self) -> Generator[None, None, bool]:
        """Read a call that stands in a thought; return True if it ended the thought.

        It did if the turn ends behind it or another call follows. Text behind it shows that the
        model only thought of a call, which then stands in the thought as it was written.
        """
        reader = self._reader
        self._open_pair()
        try:
            yield from self._calls.read()
            reader.take((yield from reader.wait_past(_SPACES, _MOST_SPACES)))
            found = yield from marker_here(reader)
            is_call = reader.at_end or found == m.CALL_OPEN or found in m.TURN_ENDS
            thought = "".join(reader.record)
        except BrokenCall:
            is_call, thought = False, m.without_markers("".join(reader.record))
        except CutCall:
            self._calls.drop()
            reader.take(reader.left)
            return True
        if is_call:
            self._out.calls(self._calls.certain())
            self._out.read_calls(reader.record)
            return True
        self._out.thought(thought)
        self._calls.drop()
        return False

    def _unmarked_call(self) -> Generator[None, None, bool]:
        """Read a call without its opening token, if it is closed and its tool is declared."""
        name = yield from called_name(self._reader)
        if name is None or self._out.is_verbatim or not self._tools.declares(name):
            return False
        self._calls.begin()
        try:
            yield from self._calls.read()
            is_closed = self._calls.is_closed
        except (BrokenCall, CutCall):
            is_closed = False
        if is_closed:
            self._out.calls(self._calls.certain())
        else:
            text = "".join(self._reader.record)
            self._calls.drop()
            self._out.broken(text)
        return is_closed

    def _open_pair(self) -> None:
        self._calls.begin()
        self._reader.take(len(m.CALL_OPEN))


def _goes_on(generator: Wait) -> bool:
    try:
        next(generator)
    except StopIteration:
        return False
    return True
