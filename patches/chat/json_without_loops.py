# SPDX-License-Identifier: Apache-2.0
"""Allow no optional whitespace in JSON, where Gemma 4 can loop until max_tokens.

This is `--constrained-json-disable-any-whitespace`, on by default. With
`--constrained-json-max-whitespace-cnt N`, at most N whitespace characters in a row are allowed.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch

CONSTRAINED = "sglang.srt.constrained"
XGRAMMAR = f"{CONSTRAINED}.xgrammar_backend.XGrammarGrammarBackend"
GUIDANCE = f"{CONSTRAINED}.llguidance_backend.GuidanceBackend"
ANY_JSON = "$$ANY$$"


def _compact(self: Any, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """BEFORE __init__ of a grammar backend; SGLang names these arguments."""
    chosen = kwargs.get("max_whitespace_cnt") is not None
    chosen = chosen or kwargs.get("whitespace_pattern") is not None
    if not chosen:
        kwargs["any_whitespace"] = False
    return (self, *args), kwargs


def _any_json(original: Any, self: Any, key_string: str) -> Any:
    """AROUND dispatch_json: XGrammar's grammar of any JSON allows unlimited whitespace."""
    if key_string == ANY_JSON and not self.any_whitespace:
        key_string = "{}"
    return original(self, key_string)


def _retired() -> bool:
    from sglang.srt.constrained.base_grammar_backend import create_grammar_backend

    return "any_whitespace=False" in inspect.getsource(inspect.unwrap(create_grammar_backend))


PATCH = Patch(
    name="json_without_loops",
    theme="chat",
    summary="JSON answers hold no optional whitespace, in which the model could loop",
    why="SGLang allows whitespace without end between the tokens of JSON; Gemma 4 is known to "
    "write newlines and blanks there until max_tokens",
    upstream="unreported for SGLang; vLLM issues 40080 and 42110 describe the loop",
    retire_when="create_grammar_backend passes any_whitespace=False",
    retired=_retired,
    hooks=(
        Hook(f"{XGRAMMAR}.__init__", "74f1246b728b", "before", _compact),
        Hook(f"{GUIDANCE}.__init__", "402def43e6d0", "before", _compact),
        Hook(f"{XGRAMMAR}.dispatch_json", "834f41c7450e", "around", _any_json),
    ),
    required=False,
)
