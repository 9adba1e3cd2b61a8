# SPDX-License-Identifier: Apache-2.0
"""Read a turn in SGLang's two stages: take out thoughts first, then calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sglang_gemma4_ext.chat.events import Call, Event, Text, Thought
from sglang_gemma4_ext.chat.literals import without_marks
from sglang_gemma4_ext.chat.markers import without_markers
from sglang_gemma4_ext.chat.tools import Tools
from sglang_gemma4_ext.chat.turn import CallsAs, Start, Turn
from sglang_gemma4_ext.chat.wire import Decoder, Encoder, without_frames


@dataclass(frozen=True)
class Plan:
    """Set how the turns of a request are read.

    keeps_marks: the text is read once more, so its literals stay marked.
    shows_thoughts: thoughts are part of the text, without their control tokens.
    holds_thoughts: a thought is given out when it has ended.
    needs_text: a turn of nothing but thoughts ends in their text.
    """

    start: Start = Start.CONTENT
    tools: Tools = field(default_factory=Tools)
    calls: CallsAs = "verbatim"
    keeps_marks: bool = False
    shows_thoughts: bool = False
    holds_thoughts: bool = False
    needs_text: bool = False


class ThoughtStage:
    """Split a turn into (reasoning, text), the first stage; its calls are framed in the text."""

    def __init__(self, plan: Plan):
        self._turn = Turn(plan.tools, plan.start, calls=plan.calls)
        self._encoder = Encoder()
        self._shown = _ShownThoughts() if plan.shows_thoughts else None
        self._keeps_marks = plan.keeps_marks
        self._holds, self._needs_text = plan.holds_thoughts, plan.needs_text
        self._held: list[str] = []
        self._all: list[str] = []

    def feed(self, text: str) -> tuple[str, str]:
        """Read more text; return (reasoning, text) that is certain by now."""
        thought, text = self._split(self._turn.feed(without_frames(text)))
        if self._needs_text:
            self._all.append(thought)
            self._needs_text = not text
        self._held.append(thought)
        if self._holds and not text:
            return "", ""
        return self._release(), text

    def finish(self) -> tuple[str, str]:
        thought, text = self._split(self._turn.finish())
        if self._needs_text and not text:
            text = without_markers("".join([*self._all, thought]))
        self._held.append(thought)
        return self._release(), text

    def _release(self) -> str:
        thought = "".join(self._held)
        self._held.clear()
        return thought

    def _split(self, events: list[Event]) -> tuple[str, str]:
        if self._shown is not None:
            events = self._shown.show(events)
        thoughts = "".join(event.text for event in events if isinstance(event, Thought))
        text = self._encoder.encode(events)
        return without_marks(thoughts), text if self._keeps_marks else without_marks(text)


class CallStage:
    """Parse texts and calls, the second stage; text that no first stage read is read here."""

    def __init__(self, tools: Tools):
        self._decoder = Decoder()
        self._turn = Turn(tools)
        self._shown = _ShownThoughts()

    @property
    def open_calls(self) -> set[int]:
        """Return calls that were emitted in part and did not end."""
        return self._decoder.open_calls | self._turn.open_calls

    def feed(self, text: str) -> list[Event]:
        events: list[Event] = []
        for event in self._decoder.decode(text):
            events += self._turn.feed(event.text) if isinstance(event, Text) else [event]
        return _unmarked(self._shown.show(events))

    def finish(self) -> list[Event]:
        self._decoder.finish()
        return _unmarked(self._shown.show(self._turn.finish()))


class _ShownThoughts:
    """Show thoughts as text, with a newline between them and what follows."""

    def __init__(self) -> None:
        self._after_thought = False

    def show(self, events: Iterable[Event]) -> list[Event]:
        """Turn thoughts into text events, with a newline before text that follows one."""
        shown: list[Event] = []
        for event in events:
            if isinstance(event, Text) and self._after_thought:
                shown.append(Text("\n"))
            self._after_thought = isinstance(event, Thought)
            if isinstance(event, Thought):
                event = Text(without_markers(event.text))
            shown.append(event)
        return shown


def _unmarked(events: list[Event]) -> list[Event]:
    return [
        replace(event, arguments=without_marks(event.arguments))
        if isinstance(event, Call)
        else replace(event, text=without_marks(event.text))
        for event in events
    ]
