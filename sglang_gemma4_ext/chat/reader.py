# SPDX-License-Identifier: Apache-2.0
"""Read text that is still arriving.

Parsers are generators over a Reader. They yield where they need more text, and resume when it has
arrived or the text has ended. Text that was taken is never read again, so the work is linear in the
text. The look-ahead is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Generator

Wait = Generator[None, None, None]


class Reader:
    """Hold `text` that has arrived and was not dropped; reading continues at `pos`.

    record: everything taken since the list was last emptied, for text that turns out not to parse
    """

    def __init__(self) -> None:
        self.text = ""
        self.pos = 0
        self.ended = False
        self.taken = 0
        self.record: list[str] = []

    def feed(self, chunk: str) -> None:
        self.text = self.text[self.pos :] + chunk
        self.pos = 0

    def unread(self, text: str) -> None:
        """Put back text that was taken with `record=False`."""
        self.text = text + self.text[self.pos :]
        self.pos = 0
        self.taken -= len(text)

    @property
    def left(self) -> int:
        return len(self.text) - self.pos

    @property
    def at_end(self) -> bool:
        return self.ended and self.pos >= len(self.text)

    def take(self, size: int, *, record: bool = True) -> str:
        piece = self.text[self.pos : self.pos + size]
        self.pos += size
        self.taken += size
        if record:
            self.record.append(piece)
        return piece

    def next_is(self, *words: str) -> bool:
        return self.text.startswith(words, self.pos)

    def wait_for(self, size: int) -> Wait:
        """Wait until `size` characters are left, or the text has ended."""
        while self.left < size and not self.ended:
            yield

    def wait_past(self, run: re.Pattern[str], most: int) -> Generator[None, None, int]:
        """Return the length of the run of characters at `pos`, once what follows it has arrived.

        A run of more than `most` characters is cut there.
        """
        while True:
            found = run.match(self.text, self.pos)
            size = found.end() - self.pos if found else 0
            if size >= most:
                return most
            if size < self.left or self.ended:
                return size
            yield
