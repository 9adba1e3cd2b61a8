# SPDX-License-Identifier: Apache-2.0
"""Define the events of a model's turn, emitted in the order in which they become certain."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """Hold text for the reader."""

    text: str


@dataclass(frozen=True)
class Thought:
    """Hold reasoning; several thoughts of a turn are joined by a newline."""

    text: str


@dataclass(frozen=True)
class Call:
    """Hold a part of a call's arguments, as JSON; the first part names the tool.

    index: 0 for the turn's first call. is_last: this part completes the arguments.
    """

    index: int
    name: str | None
    arguments: str
    is_last: bool


Event = Text | Thought | Call


class JoinedThoughts:
    """Join a turn's thoughts, without the newline with which the markup ends each."""

    def __init__(self) -> None:
        self._newline = ""
        self._any = False

    def begin(self) -> None:
        """Begin another thought."""
        if self._any:
            self._newline = "\n"

    def add(self, text: str) -> str:
        """Add text; return what is certain by now and was not returned before."""
        text = self._newline + text
        self._newline = "\n" if text.endswith("\n") else ""
        text = text.removesuffix("\n")
        self._any = self._any or bool(text)
        return text
