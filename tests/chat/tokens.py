# SPDX-License-Identifier: Apache-2.0
"""Outputs as tokens: control tokens as such, or spelled out in ordinary ones."""

from __future__ import annotations

import functools
import itertools

from bench.checkpoints.tokenizer import tokenizer


def encode(text: str) -> list[int]:
    """Encode a text; each control token in it is one token."""
    return _tokenizer().encode(text, add_special_tokens=False)


def spell(text: str) -> list[int]:
    """Encode a text as one token a character, none of them a control token."""
    return list(itertools.chain.from_iterable(map(encode, text)))


@functools.cache
def _tokenizer():
    return tokenizer()
