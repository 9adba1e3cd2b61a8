# SPDX-License-Identifier: Apache-2.0
"""Generate random text under a grammar's mask, as a model of random weights would."""

from __future__ import annotations

import functools
import random

import xgrammar

from bench.checkpoints.tokenizer import TOKEN_ID, VOCAB, tokenizer
from sglang_gemma4_ext.chat.grammar import ControlTokens, control_tokens_in, text_vocabulary

STOPS = [TOKEN_ID[token] for token in ("<eos>", "<turn|>", "<|tool_response>")]
# These tokens end something or begin a call. They are drawn often, so that random text ends.
CLOSERS = {
    *STOPS,
    *(TOKEN_ID[token] for token in ('<|"|>', "<|tool_call>", "<tool_call|>", "<channel|>")),
}


@functools.cache
def made_tokenizer():
    return tokenizer()


@functools.cache
def control_tokens() -> ControlTokens:
    return ControlTokens.of(made_tokenizer())


@functools.cache
def _compiler() -> xgrammar.GrammarCompiler:
    info = xgrammar.TokenizerInfo.from_huggingface(
        made_tokenizer(), vocab_size=VOCAB, stop_token_ids=STOPS
    )
    vocabulary = text_vocabulary(info.decoded_vocab, control_tokens().all)
    text = xgrammar.TokenizerInfo(
        vocabulary, xgrammar.VocabType.RAW, vocab_size=VOCAB, stop_token_ids=STOPS
    )
    return xgrammar.GrammarCompiler(text, cache_enabled=False)


@functools.cache
def compiled(grammar: str) -> xgrammar.CompiledGrammar:
    assert control_tokens_in(grammar) == control_tokens().all
    return _compiler().compile_grammar(grammar)


def accepts(grammar: str, text: str) -> bool:
    """Tell whether the text follows the grammar as a whole turn and may end there."""
    matcher = xgrammar.GrammarMatcher(compiled(grammar))
    ids = made_tokenizer().encode(text, add_special_tokens=False)
    return all(matcher.accept_token(i) for i in ids) and matcher.accept_token(STOPS[0])


def generate(grammar: str, seed: int, steps: int = 4000) -> str | None:
    """Generate a random turn under the mask; None if it does not end within `steps` tokens."""
    chance = random.Random(seed)
    matcher = xgrammar.GrammarMatcher(compiled(grammar))
    mask = xgrammar.allocate_token_bitmask(1, VOCAB)
    out: list[int] = []
    for _ in range(steps):
        matcher.fill_next_token_bitmask(mask)
        words = mask[0].tolist()
        allowed = [i for i in range(VOCAB) if words[i // 32] >> (i % 32) & 1]
        assert allowed, f"nothing may follow {made_tokenizer().decode(out)!r}"
        closing = [i for i in allowed if i in CLOSERS]
        token = chance.choice(closing if closing and chance.random() < 0.3 else allowed)
        assert matcher.accept_token(token)
        if token in STOPS:
            return made_tokenizer().decode(out)
        out.append(token)
    return None
