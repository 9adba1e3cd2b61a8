# SPDX-License-Identifier: Apache-2.0
"""A plan: bytes by purpose, pools, what they hold, and what to pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_gemma4_ext.plan.pools import KvBytes, Pools
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.reserve import Load

NEW_TOKENS = 1024  # of each request, where a plan needs a number
RESERVE = "reserve: "


@dataclass(frozen=True)
class Plan:
    """The answer to a question.

    parts sum to the GPU's memory; `kv` is negative where weights and reserve alone exceed it.
    fraction: mem_fraction_static, with SGLang's three digits.
    longest: the longest prompt of a lone request; concurrent: by (prompt, new) tokens.
    notes: what to know besides, one sentence each.
    """

    question: Question
    parts: dict[str, int]
    fraction: float
    kv: KvBytes
    pools: Pools
    ratio: float | None
    load: Load
    longest: int
    concurrent: dict[tuple[int, int], int]
    fits: bool
    reason: str
    flags: list[str] = field(default_factory=list)
    nearest: str = ""
    notes: tuple[str, ...] = ()

    @property
    def reserve(self) -> int:
        """Bytes that are kept free of weights and KV."""
        return sum(size for part, size in self.parts.items() if part.startswith(RESERVE))

    @property
    def kv_tokens(self) -> int:
        """Tokens of full attention that the pools hold if nothing else is in them."""
        return self.pools.full

    @property
    def longest_request(self) -> int:
        """Prompt and new tokens of the longest lone request, 0 if none fits."""
        return self.longest + NEW_TOKENS if self.longest else 0
