# SPDX-License-Identifier: Apache-2.0
"""Define a plan: bytes by purpose, pools, what they hold, and the flags to pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_gemma4_ext.plan.pools import KvBytes, Pools
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.reserve import Load

NEW_TOKENS = 1024  # of each request, where a plan needs a number
RESERVE = "reserve: "


@dataclass(frozen=True)
class Plan:
    """Hold the answer to a question.

    parts: bytes that sum to the GPU's memory; `kv` is negative if weights and reserve exceed it
    fraction: mem_fraction_static, with SGLang's three digits
    longest: the longest prompt of a lone request; concurrent: by (prompt, new) tokens
    notes: further facts, one sentence each
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
        """Return the bytes that are kept free of weights and KV."""
        return sum(size for part, size in self.parts.items() if part.startswith(RESERVE))

    @property
    def kv_tokens(self) -> int:
        """Return the tokens of full attention that the pools hold if they hold nothing else."""
        return self.pools.full

    @property
    def longest_request(self) -> int:
        """Return prompt and new tokens of the longest lone request, 0 if none fits."""
        return self.longest + NEW_TOKENS if self.longest else 0
