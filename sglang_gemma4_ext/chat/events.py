# SPDX-License-Identifier: Apache-2.0
"""What a model's turn consists of, in the order in which it becomes certain."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """Text for the reader."""

    text: str


@dataclass(frozen=True)
class Thought:
    """Reasoning. Several thoughts of a turn are joined by a newline."""

    text: str


@dataclass(frozen=True)
class Call:
    """A part of a call's arguments, as JSON; the first part names the tool.

    index: 0 for the turn's first call. is_last: the arguments are whole with this part.
    """

    index: int
    name: str | None
    arguments: str
    is_last: bool


Event = Text | Thought | Call


class JoinedThoughts:
    """The text of a turn's thoughts without the newline that the markup ends each of them with."""

    def __init__(self) -> None:
        self._newline = ""
        self._any = False

    def begin(self) -> None:
        """Another thought begins."""
        if self._any:
            self._newline = "\n"

    def add(self, text: str) -> str:
        """What is certain of the thoughts by now and was not returned before."""
        text = self._newline + text
        self._newline = "\n" if text.endswith("\n") else ""
        text = text.removesuffix("\n")
        self._any = self._any or bool(text)
        return text
