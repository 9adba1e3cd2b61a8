# SPDX-License-Identifier: Apache-2.0
"""Write pieces of XGrammar's EBNF: literals, and rules taken from its own converters.

Control tokens are written `Token(id)`. Every character class here is text: the compiler that reads
these grammars must keep control tokens out of text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

TEXT = "[^\\x00]"
_PARTS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[A-Za-z_][A-Za-z0-9_.-]*')
_BOUND = re.compile(r"\{(\d+)(?:,(\d+)?)?\}")
# A grammar's text cannot have NUL, and half of a surrogate pair has no UTF-8.
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
MOST_PATTERN = 512
MOST_NARROW_REPEATS = 128


def is_text(value: str) -> bool:
    """Tell whether tokens can spell a string under a grammar."""
    return _NO_TEXT.search(value) is None


def literal(text: str) -> str:
    """Return text as a quoted string of the grammar; the empty string is legal."""
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif " " <= char <= "~":
            out.append(char)
        else:
            out.append(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}")
    return '"' + "".join(out) + '"'


def pattern_rules(pattern: str, prefix: str, counted: int) -> tuple[str, list[str]] | None:
    """Return the start and the rules of text that matches a JSON schema's `pattern`.

    A pattern may match anywhere in the text unless it is anchored.
    counted: how often a repetition may count a character class that allows any character.
    Returns None for inner anchors, lookaround and long repetitions, which XGrammar's regular
    expressions lack.
    """
    import xgrammar

    core = pattern.removeprefix("^")
    starts = core != pattern
    ends = core.endswith("$") and not core.endswith("\\$")
    core = core.removesuffix("$") if ends else core
    if _is_beyond(core, starts or ends) or _repeats(core) > _most_repeats(core, counted):
        return None
    try:
        grammar = str(xgrammar.Grammar.from_regex(core))
    except RuntimeError:
        return None
    start, rules = renamed(grammar, prefix)
    return f"{'' if starts else TEXT + '* '}{start}{'' if ends else ' ' + TEXT + '*'}", rules


def number_rules(schema: Mapping[str, Any], prefix: str) -> tuple[str, list[str]] | None:
    """Return the start and the rules of a number within the bounds of a JSON schema.

    Returns None where XGrammar cannot express the bounds.
    """
    import xgrammar

    try:
        grammar = str(xgrammar.Grammar.from_json_schema(json.dumps(schema)))
    except RuntimeError:
        return None
    return renamed(grammar, prefix)


def _is_beyond(core: str, anchored: bool) -> bool:
    """Tell whether a pattern has what XGrammar lacks, or a byte that crashes it."""
    if len(core) > MOST_PATTERN or "\x00" in core or "(?" in core.replace("(?:", "("):
        return True
    depth, in_class, escaped = 0, False, False
    for char in core:
        if escaped:
            escaped = False
            # Word boundaries, back references and character codes.
            if char in "bBkpPux0123456789" and not in_class:
                return True
        elif char == "\\":
            escaped = True
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char in "^$" or (char == "|" and depth == 0 and anchored):
            return True
    return False


def _repeats(core: str) -> int:
    """Return an upper bound on the characters that a pattern's repetitions count."""
    bounds = [int(most or least) for least, most in _BOUND.findall(core)]
    return math.prod(bounds) if re.search(r"\)[{*+]", core) else sum(bounds)


def _most_repeats(core: str, counted: int) -> int:
    takes_anything = "." in core or "[^" in core or re.search(r"\\[DWS]", core)
    return counted if takes_anything else MOST_NARROW_REPEATS


def renamed(grammar: str, prefix: str) -> tuple[str, list[str]]:
    """Take the rules that `root` reaches from a grammar as XGrammar prints it, renamed.

    Returns the new name of `root`, and the rules.
    """
    bodies = dict(line.split(" ::= ", 1) for line in grammar.splitlines() if " ::= " in line)
    reached, wanted = [], ["root"]
    while wanted:
        name = wanted.pop()
        if name in reached:
            continue
        reached.append(name)
        wanted += [part for part in _PARTS.findall(bodies[name]) if part in bodies]

    def rename(found: re.Match[str]) -> str:
        return prefix + found[0] if found[0] in bodies else found[0]

    return prefix + "root", [
        f"{prefix}{name} ::= {_PARTS.sub(rename, bodies[name])}" for name in reached
    ]
