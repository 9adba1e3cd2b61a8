# SPDX-License-Identifier: Apache-2.0
"""Build the demo's tokenizer: each word it was taught is one token, anything else is bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from sglang_gemma4_ext.demo.training import tool_stories
from sglang_gemma4_ext.demo.training.answers import ANSWERS, OTHERWISE
from sglang_gemma4_ext.demo.training.chat_template import CHAT_TEMPLATE
from sglang_gemma4_ext.demo.training.questions import ALL_PROMPT_WORDS
from sglang_gemma4_ext.demo.training.vocabulary import (
    FILLERS,
    INVENTED,
    LANGUAGES,
    NAMES,
    RELATIONS,
)

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|image|>", "<|audio|>")
PAD, EOS, BOS, TURN, END_TURN, IMAGE, AUDIO = range(len(SPECIAL_TOKENS))
# An option's letter with its line break is one token, which keeps questions short.
PIECES = r"\n[A-D]\.| ?[A-Za-z]+|\n[A-Z][a-z]+|[\s\S]"


def _pieces(texts: Iterable[str]) -> set[str]:
    return {piece for text in texts for piece in re.findall(PIECES, text) if len(piece) > 1}


def words() -> list[str]:
    """List every piece of the first lesson that gets a token of its own, in a fixed order."""
    texts = [*FILLERS, OTHERWISE, ALL_PROMPT_WORDS, "user\nmodel\n"]
    texts += [text for asked, answer in ANSWERS for text in (*asked, answer)]
    for relation in RELATIONS:
        texts.append(f"What does it {relation.verb}? {relation.says} {relation.subject}")
        texts.append(" " + " ".join(relation.objects))
    texts.append("What is the x in x is called " + " ".join((*LANGUAGES, *INVENTED)) + ". In\nIn")
    for name in NAMES:
        texts.append(f"{name} {name}\n{name}")
    return sorted(_pieces(texts))


def tool_words() -> list[str]:
    """List the pieces that the second lesson adds, in a fixed order."""
    return sorted(_pieces([tool_stories.WORDS]) - set(words()))


@cache
def build() -> transformers.PreTrainedTokenizerFast:
    """Build byte-level BPE without merges: known pieces are one token, others become bytes."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces, more = (
        ["".join(part for part, _ in level.pre_tokenize_str(word)) for word in found]
        for found in (words(), tool_words())
    )
    # What the second lesson adds comes last, so that it changes no id of the first.
    vocabulary = [
        *SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces,
        *tool_stories.TOKENS, *more,
    ]  # fmt: skip
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL_TOKENS, *tool_stories.TOKENS])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def vocabulary_size() -> int:
    """Return the size rounded up to a multiple of 64, for efficient kernels."""
    return -(-len(build()) // 64) * 64


def _token(text: str) -> int:
    return build().convert_tokens_to_ids(text)


@cache
def first_tool_token() -> int:
    """Return the first id that the first lesson does not train."""
    return _token(tool_stories.TOKENS[0])


@cache
def encode(text: str) -> tuple[int, ...]:
    """Return the tokens of a text without <bos>; results are cached, because sentences repeat."""
    return tuple(build()(text, add_special_tokens=False).input_ids)


# Each of these ends what the model writes; a tool's result follows a call.
ENDS = (EOS, END_TURN, _token(tool_stories.RESULT))
