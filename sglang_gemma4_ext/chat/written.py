# SPDX-License-Identifier: Apache-2.0
"""Write a `const` or an entry of an `enum` as the chat template does, for the grammar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sglang_gemma4_ext.chat.alternatives import MOST_LEVELS, TooMany
from sglang_gemma4_ext.chat.call import is_key
from sglang_gemma4_ext.chat.ebnf import is_text, literal


class Unwritable(Exception):
    """Signal a value that a call cannot hold."""


def written(value: Any, quote: str, level: int = 0) -> str:
    """Return an expression for the value. quote: the token before and after a string.

    Raises TooMany where lists and objects lie too deep in each other, and Unwritable.
    """
    if level > MOST_LEVELS:
        raise TooMany
    if isinstance(value, str):
        if not is_text(value):
            raise Unwritable
        return f"{quote} {literal(value)} {quote}"
    if value is None:
        return '"null"'
    if isinstance(value, bool):
        return '"true"' if value else '"false"'
    if isinstance(value, Mapping):
        if not all(map(is_key, value)):
            raise Unwritable
        pairs = sorted(value.items(), key=lambda pair: pair[0].lower())
        inner = ' "," '.join(f"{literal(k + ':')} {written(v, quote, level + 1)}" for k, v in pairs)
        return f'"{{" {inner} "}}"'
    if isinstance(value, list):
        inner = ' "," '.join(written(part, quote, level + 1) for part in value)
        return f'"[" {inner} "]"'
    return literal(repr(value))
