# SPDX-License-Identifier: Apache-2.0
"""Enforce an answer's json_schema, regex or ebnf whether or not a thought comes first.

SGLang does not constrain a request that may think until a thought ends. Gemma 4 may answer without
one, and then nothing is enforced. Here the thought is an optional part of the grammar, or its rest
where the prompt opened it. Every token is constrained from the first one on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sglang_gemma4_ext.chat.grammar import ControlTokens, Start, answer_grammar, start_of
from sglang_gemma4_ext.patches.chat._turn_compiler import compile_turn
from sglang_gemma4_ext.registry import Hook, Patch, Source

REASONER = "sglang.srt.constrained.reasoner_grammar_backend"
BACKEND = f"{REASONER}.ReasonerGrammarBackend"
BASE = "sglang.srt.constrained.base_grammar_backend"
KINDS = ("json", "regex", "ebnf")
VARIANT = "gemma4 "


def _read_tokens(
    result: None,
    self: Any,
    grammar_backend: Any,
    parser: Any,
    tokenizer: Any,
    *args: Any,
    **kw: Any,
) -> None:
    """AFTER __init__. A token filter of --enable-strict-thinking needs SGLang's own wrapper."""
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend

    ours = isinstance(grammar_backend, XGrammarGrammarBackend) and not self.enable_token_filter
    self._gemma4_tokens = ControlTokens.of(tokenizer) if ours else None


def _key_of_start(
    original: Any, self: Any, key: tuple[str, str], *, input_ids: Sequence[int], **kwargs: Any
) -> tuple[str, str]:
    """AROUND get_request_grammar_key: the key of a grammar includes where its prompt ends."""
    if self._gemma4_tokens is None or key[0] not in KINDS:
        return original(self, key, input_ids=input_ids, **kwargs)
    return (f"{key[0]}:{VARIANT}{start_of(input_ids, self._gemma4_tokens).name}", key[1])


def _compile(original: Any, self: Any, key: tuple[str, str], reasoning: bool) -> Any:
    """AROUND _init_value_dispatch, which wraps a grammar so that it waits for a thought's end."""
    kind, _, variant = key[0].partition(":")
    if not variant.startswith(VARIANT):
        return original(self, key, reasoning)
    answer = self.grammar_backend._init_value_dispatch((kind, key[1]), reasoning)
    start = Start[variant.removeprefix(VARIANT)]
    context = getattr(answer, "ctx", None)
    if context is None or start is Start.ANSWER:
        return answer
    turn = answer_grammar(str(context.grammar), self._gemma4_tokens, start)
    return compile_turn(self.grammar_backend, turn)


def _retired() -> bool:
    from sglang.srt.parser.reasoning_parser import Gemma4Detector

    return "get_answer_frame" in vars(Gemma4Detector)


PATCH = Patch(
    name="answers_always_constrained",
    theme="chat",
    summary="json_schema, regex and ebnf hold with thinking on, also when no thought comes",
    why="SGLang's grammar waits for the end of a thought that Gemma 4 may leave out",
    upstream="unreported",
    retire_when="SGLang's reasoning detector of Gemma 4 overrides get_answer_frame",
    retired=_retired,
    hooks=(
        Hook(f"{BACKEND}.__init__", "c0f3b1d17bb1", "after", _read_tokens),
        Hook(f"{BACKEND}.get_request_grammar_key", "4ba5c2b310fa", "around", _key_of_start),
        Hook(f"{BACKEND}._init_value_dispatch", "3f049cc6f76d", "around", _compile),
    ),
    relies_on=(
        Source(f"{BASE}.BaseGrammarBackend.get_cached_or_future_value", "b91c4e84a1fd"),
        Source(
            "sglang.srt.constrained.grammar_manager.GrammarManager.process_req_with_grammar",
            "5341c5932fae",
        ),
    ),
    required=False,
)
