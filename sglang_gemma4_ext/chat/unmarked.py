# SPDX-License-Identifier: Apache-2.0
"""Find a call whose opening token the model left out: `call:NAME{` where a turn may have a call."""

from __future__ import annotations

import re
from collections.abc import Generator

from sglang_gemma4_ext.chat.calls import CALL_WORD
from sglang_gemma4_ext.chat.reader import Reader

_CALL = re.compile(r"call:(\w[\w.\-/:]{0,255})\{")
_START = re.compile(r"call:(?:\w[\w.\-/:]{0,255})?")
_MOST = 264


def called_name(reader: Reader) -> Generator[None, None, str | None]:
    """Return the tool that the text calls, or None. Wait as long as it may become a call."""
    while not (found := _CALL.match(reader.text, reader.pos)):
        here = reader.text[reader.pos : reader.pos + _MOST]
        may_come = CALL_WORD.startswith(here) or _START.fullmatch(here)
        if reader.ended or not may_come or len(here) == _MOST:
            return None
        yield
    return found.group(1)
