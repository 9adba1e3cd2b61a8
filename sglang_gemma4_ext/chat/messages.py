# SPDX-License-Identifier: Apache-2.0
"""Bring a conversation's history into the shape that Gemma 4's chat template reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_THOUGHT_PARTS = ("thinking", "reasoning")


def thought_of(message: Mapping[str, Any]) -> str | None:
    """Return the thought that a client sent back with an assistant message, or None.

    Read in this order: `reasoning_content`, `reasoning`, OpenRouter's `reasoning_details`, and
    content parts of type `thinking` or `reasoning`.
    """
    if message.get("role") != "assistant":
        return None
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name]:
            return message[name]
    details = _texts(message.get("reasoning_details"), ("reasoning.text",))
    parts = _texts(message.get("content"), _THOUGHT_PARTS)
    return "\n".join(details or parts) or None


def without_thoughts(content: Any) -> Any:
    """Return a message's content without its parts of type `thinking` or `reasoning`."""
    if not isinstance(content, list):
        return content
    return [part for part in content if _kind(part) not in _THOUGHT_PARTS]


def joined_text(parts: Sequence[Any]) -> str | None:
    """Return the text of a tool result's parts without separator, as the template joins them.

    None if a part is not text: then the template renders the parts itself.
    """
    texts = [part if isinstance(part, str) else _text_of(part) for part in parts]
    if any(text is None for text in texts):
        return None
    return "".join(text for text in texts if text is not None)


def ends_after_tool_result(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether the model continues after results of a call that it introduced with text.

    There the template ends the model's turn and does not begin the next one.
    """
    last = len(messages) - 1
    while last >= 0 and messages[last].get("role") == "tool":
        last -= 1
    if last in (-1, len(messages) - 1):
        return False
    caller = messages[last]
    return caller.get("role") == "assistant" and bool(caller.get("tool_calls"))


def _texts(parts: Any, kinds: Sequence[str]) -> list[str]:
    if not isinstance(parts, list):
        return []
    found = (part for part in parts if _kind(part) in kinds)
    texts = (part.get("thinking") or part.get("text") for part in found)
    return [text for text in texts if isinstance(text, str) and text]


def _text_of(part: Any) -> str | None:
    return part.get("text", "") if _kind(part) == "text" else None


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else None
