# SPDX-License-Identifier: Apache-2.0
"""Read the calls between `<|tool_call>` and `<tool_call|>`, and decide when one is certain."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sglang_gemma4_ext.chat.call import CallParser
from sglang_gemma4_ext.chat.events import Call
from sglang_gemma4_ext.chat.markers import CALL_CLOSE
from sglang_gemma4_ext.chat.reader import Reader, Wait
from sglang_gemma4_ext.chat.repair import marker_here
from sglang_gemma4_ext.chat.tools import Tools

# A call is emitted once it is complete or longer than this. Therefore a short call that max_tokens
# cuts off emits nothing, and the arguments of a long one stream.
HELD_CHARACTERS = 256
CALL_WORD = "call:"
_LEFTOVER_CLOSERS = re.compile(r"[\s}\])]*")


@dataclass
class _Pending:
    """Hold an unfinished call. index: its place in the turn once a part is emitted."""

    name: str
    began: int
    parts: list[str] = field(default_factory=list)
    index: int | None = None
    is_whole: bool = False


class Calls:
    """Hold the calls of one turn.

    open_calls: calls emitted in part that turned out not to be calls
    is_closed: whether the last pair had its closing token
    """

    def __init__(self, reader: Reader, tools: Tools):
        self._reader = reader
        self._parser = CallParser(reader, tools, self._emit)
        self._pending: list[_Pending] = []
        self._given = 0
        self._whole_at = 0
        self.is_closed = False
        self.open_calls: set[int] = set()

    def begin(self) -> None:
        """Start to record what is taken."""
        self._reader.record.clear()
        self._whole_at = 0

    def read(self) -> Wait:
        """Take the calls of one pair of tokens, whose opening token is already taken.

        Raises BrokenCall and CutCall.
        """
        reader = self._reader
        while True:
            began = reader.taken
            name = yield from self._parser.header()
            self._pending.append(_Pending(name, began))
            yield from self._parser.arguments(name)
            self._pending[-1].is_whole = True
            self._whole_at = len(reader.record)
            yield from self._skip_leftover_closers()
            yield from reader.wait_for(len(CALL_WORD))
            if not reader.next_is(CALL_WORD):
                break
        self.is_closed = (yield from marker_here(reader)) == CALL_CLOSE
        if self.is_closed:
            reader.take(len(CALL_CLOSE))

    def certain(self) -> list[Call]:
        """Return the parts that can be emitted by now."""
        found = []
        for call in self._pending:
            is_long = self._reader.taken - call.began > HELD_CHARACTERS
            if call.is_whole or is_long or call.index is not None:
                found += self._part(call)
        self._pending = [call for call in self._pending if not call.is_whole]
        return found

    def drop(self) -> str:
        """Forget what was not emitted; a call emitted in part stays open.

        Returns the text since the last complete call.
        """
        self.open_calls |= {call.index for call in self._pending if call.index is not None}
        self._pending.clear()
        return "".join(self._reader.record[self._whole_at :])

    def _part(self, call: _Pending) -> list[Call]:
        name = None
        if call.index is None:
            call.index, name = self._given, call.name
            self._given += 1
        arguments = "".join(call.parts)
        call.parts.clear()
        if name is None and not arguments and not call.is_whole:
            return []
        return [Call(call.index, name, arguments, call.is_whole)]

    def _emit(self, fragment: str) -> None:
        self._pending[-1].parts.append(fragment)

    def _skip_leftover_closers(self) -> Wait:
        reader = self._reader
        while True:
            run = _LEFTOVER_CLOSERS.match(reader.text, reader.pos)
            reader.take(run.end() - reader.pos if run else 0)
            if reader.left or reader.ended:
                return
            yield
