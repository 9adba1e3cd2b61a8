# SPDX-License-Identifier: Apache-2.0
"""Compile a grammar of Gemma 4's turn in SGLang's XGrammar backend.

SGLang's own compiler reads a control token as the text that it spells, so a string of JSON or of a
call could hold one. Here control tokens match only by their ids.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from sglang_gemma4_ext.chat.grammar import control_tokens_in, text_vocabulary

logger = logging.getLogger(__name__)

_making = threading.Lock()


def compile_turn(backend: Any, grammar: str) -> Any:
    """Return SGLang's grammar object for a grammar of chat.grammar, or one with the error."""
    from sglang.srt.constrained.base_grammar_backend import GrammarStats, InvalidGrammarObject

    try:
        context = _compiler(backend, control_tokens_in(grammar) or ()).compile_grammar(grammar)
    except RuntimeError as error:
        logger.error("A grammar of Gemma 4's turn does not compile: %s", error)
        return InvalidGrammarObject(str(error))
    return backend._from_context(context, grammar, GrammarStats(dispatch_type="ebnf"))


def _compiler(backend: Any, control: tuple[int, ...]) -> Any:
    """Return the backend's second compiler, made for the first such grammar."""
    from xgrammar import GrammarCompiler, TokenizerInfo, VocabType

    with _making:
        made = getattr(backend, "_gemma4_compiler", None)
        if made is None or made[0] != control:
            info = backend._tokenizer_info
            text = TokenizerInfo(
                text_vocabulary(info.decoded_vocab, control),
                VocabType.RAW,
                vocab_size=info.vocab_size,
                stop_token_ids=info.stop_token_ids,
            )
            # SGLang caches compiled grammars itself.
            made = (control, GrammarCompiler(tokenizer_info=text, cache_enabled=False))
            backend._gemma4_compiler = made
    return made[1]
