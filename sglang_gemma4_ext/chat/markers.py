# SPDX-License-Identifier: Apache-2.0
"""Name the control tokens of Gemma 4's chat format, and find them in text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

CALL_OPEN, CALL_CLOSE = "<|tool_call>", "<tool_call|>"
THOUGHT_OPEN, THOUGHT_CLOSE = "<|channel>", "<channel|>"
RESULT_OPEN, RESULT_CLOSE = "<|tool_response>", "<tool_response|>"
TURN_OPEN, TURN_CLOSE = "<|turn>", "<turn|>"
QUOTE = '<|"|>'
THOUGHT_LABEL = "thought\n"

# Each of these ends the model's turn; what it writes afterwards is not its answer.
TURN_ENDS = frozenset({RESULT_OPEN, TURN_CLOSE, TURN_OPEN})
# Each of these ends a call that was left open.
CALL_ENDS = frozenset({CALL_OPEN, CALL_CLOSE} | TURN_ENDS)
STRAYS = frozenset({RESULT_CLOSE, "<|think|>", "<|tool>", "<tool|>"})
MARKERS = frozenset(
    {CALL_OPEN, CALL_CLOSE, THOUGHT_OPEN, THOUGHT_CLOSE, QUOTE} | TURN_ENDS | STRAYS
)
LONGEST = max(map(len, MARKERS))
MARKER = re.compile("|".join(map(re.escape, sorted(MARKERS))))
_PREFIXES = frozenset(marker[:size] for marker in MARKERS for size in range(1, len(marker)))


def marker_ids(tokenizer: Any, markers: Iterable[str]) -> dict[int, str]:
    """Return the ids of the markers that the tokenizer has."""
    unknown = (None, tokenizer.unk_token_id)
    ids = {tokenizer.convert_tokens_to_ids(marker): marker for marker in markers}
    return {token: marker for token, marker in ids.items() if token not in unknown}


def partial_marker(text: str, start: int = 0) -> int:
    """Return the length of the longest end of `text[start:]` that may grow into a marker."""
    at = text.find("<", max(start, len(text) - LONGEST + 1))
    while at >= 0:
        if text[at:] in _PREFIXES:
            return len(text) - at
        at = text.find("<", at + 1)
    return 0


def without_markers(text: str) -> str:
    """Return the text for a reader: string delimiters as quotes, without other control tokens."""
    return MARKER.sub(lambda found: '"' if found.group() == QUOTE else "", text)
