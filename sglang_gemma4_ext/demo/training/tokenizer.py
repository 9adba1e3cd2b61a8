# SPDX-License-Identifier: Apache-2.0
"""Build the demo's tokenizer: each word it was taught is one token, anything else is bytes."""

from __future__ import annotations

import re
from functools import cache

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from sglang_gemma4_ext.demo.training.answers import ANSWERS, OTHERWISE
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
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ message.content }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def words() -> list[str]:
    """List every piece that gets a token of its own, in a fixed order."""
    texts = [*FILLERS, OTHERWISE, ALL_PROMPT_WORDS, "user\nmodel\n"]
    texts += [text for asked, answer in ANSWERS for text in (*asked, answer)]
    for relation in RELATIONS:
        texts.append(f"What does it {relation.verb}? {relation.says} {relation.subject}")
        texts.append(" " + " ".join(relation.objects))
    texts.append("What is the x in x is called " + " ".join((*LANGUAGES, *INVENTED)) + ". In\nIn")
    for name in NAMES:
        texts.append(f"{name} {name}\n{name}")
    return sorted({piece for text in texts for piece in re.findall(PIECES, text) if len(piece) > 1})


@cache
def build() -> transformers.PreTrainedTokenizerFast:
    """Build byte-level BPE without merges: known pieces are one token, others become bytes."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = ["".join(part for part, _ in level.pre_tokenize_str(word)) for word in words()]
    vocabulary = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces]
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def vocabulary_size() -> int:
    """Return the size rounded up to a multiple of 64, for efficient kernels."""
    return -(-len(build()) // 64) * 64


@cache
def encode(text: str) -> tuple[int, ...]:
    """Return the tokens of a text without <bos>; results are cached, because sentences repeat."""
    return tuple(build()(text, add_special_tokens=False).input_ids)
