# SPDX-License-Identifier: Apache-2.0
"""The control tokens of Gemma 4's chat format, and how to find them in text."""

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

# The model's turn is over at any of these; what it writes behind them belongs to others.
TURN_ENDS = frozenset({RESULT_OPEN, TURN_CLOSE, TURN_OPEN})
# A call that was left open is over at any of these.
CALL_ENDS = frozenset({CALL_OPEN, CALL_CLOSE} | TURN_ENDS)
STRAYS = frozenset({RESULT_CLOSE, "<|think|>", "<|tool>", "<tool|>"})
MARKERS = frozenset(
    {CALL_OPEN, CALL_CLOSE, THOUGHT_OPEN, THOUGHT_CLOSE, QUOTE} | TURN_ENDS | STRAYS
)
LONGEST = max(map(len, MARKERS))
MARKER = re.compile("|".join(map(re.escape, sorted(MARKERS))))
_PREFIXES = frozenset(marker[:size] for marker in MARKERS for size in range(1, len(marker)))


def marker_ids(tokenizer: Any, markers: Iterable[str]) -> dict[int, str]:
    """The tokens that are markers, as far as the tokenizer knows them."""
    unknown = (None, tokenizer.unk_token_id)
    ids = {tokenizer.convert_tokens_to_ids(marker): marker for marker in markers}
    return {token: marker for token, marker in ids.items() if token not in unknown}


def partial_marker(text: str, start: int = 0) -> int:
    """The length of the longest end of `text[start:]` that may grow into a marker."""
    at = text.find("<", max(start, len(text) - LONGEST + 1))
    while at >= 0:
        if text[at:] in _PREFIXES:
            return len(text) - at
        at = text.find("<", at + 1)
    return 0


def without_markers(text: str) -> str:
    """The text as a reader sees it: string delimiters as quotes, other control tokens left out."""
    return MARKER.sub(lambda found: '"' if found.group() == QUOTE else "", text)
