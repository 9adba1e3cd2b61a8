# SPDX-License-Identifier: Apache-2.0
"""Split a byte budget into the two KV pools of a Gemma 4, and count the requests they hold.

A full layer keeps every token of a request. A sliding layer keeps the window, and more only for a
while. But 5 of 6 layers slide, so a token of the sliding pool costs 10 to 20 times as much. A fixed
split suits one request length: at 1k/1k the sliding pool runs out first, at 128k the full pool.

Four splits:
- `upstream`: SWA tokens = 0.8 x full tokens, SGLang's default.
- `seed`: 0.15 for mixtures of experts, 0.8 for dense models. A fork of SGLang measured it best on a
  B200 at 1k/1k and 8k/1k.
- `shared`: one byte buffer for both, SGLang's `--enable-unified-memory`. At all lengths, neither
  pool starves the other. It admits at least what any fixed split does.
- `solved`: the fixed split whose worst case over WORKLOADS is best, for buffers that cannot be
  shared; see `solve_ratio`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from sglang_gemma4_ext.plan.geometry import FULL, SLIDING, Geometry

UPSTREAM_RATIO = 0.8
SEED_MOE_RATIO = 0.15
# (prompt, new) tokens of the loads that a split must serve well.
WORKLOADS = ((1024, 1024), (8192, 1024), (32_768, 1024), (131_072, 1024))
EVICTION_INTERVAL = 128  # SGLang's SGLANG_SWA_EVICTION_INTERVAL


@dataclass(frozen=True)
class KvBytes:
    """Hold the bytes of one token in each pool on one GPU."""

    full: int
    swa: int


@dataclass(frozen=True)
class Pools:
    """Hold the tokens of each pool; `shared_bytes` if both are in one buffer, else None."""

    full: int
    swa: int
    shared_bytes: int | None = None


@dataclass(frozen=True)
class Serving:
    """Hold the scheduler settings that affect pools.

    draft_tokens: tokens that a decode step verifies per request, 1 without speculation
    chunk: the largest prefill chunk; with `overlap` two may be in flight
    prefix_tails: cached prefixes to keep extendable, one window of sliding KV each. With 0, cached
        prefixes live in what requests leave and are evicted for them.
    """

    page: int = 1
    chunk: int = 4096
    draft_tokens: int = 1
    overlap: bool = True
    prefix_tails: int = 0


def kv_bytes(
    geometry: Geometry,
    dtype_bytes: int = 2,
    tp: int = 1,
    *,
    shared_layers_too: bool = False,
    draft_layers: int = 0,
) -> KvBytes:
    """Return bytes per token; K and V are both stored, even if they are equal.

    shared_layers_too: as in stock SGLang 0.5.23, whose pools also have rows for KV-shared layers
    draft_layers: of an MTP assistant, likewise; each counts as a full layer of the target
    """

    def of(kind: str, heads: int, dim: int) -> int:
        layers = geometry.kv_layers(kind, shared_too=shared_layers_too)
        if kind == FULL:
            layers += draft_layers
        return layers * max(1, heads // tp) * 2 * dim * dtype_bytes

    return KvBytes(
        of(FULL, geometry.global_kv_heads, geometry.global_head_dim),
        of(SLIDING, geometry.kv_heads, geometry.head_dim),
    )


def split(budget: int, kv: KvBytes, ratio: float, page: int = 1) -> Pools:
    """Split at a fixed ratio, by the arithmetic of SGLang's HybridSWAPoolConfigurator.

    The cell size is a float on purpose: SGLang's token counts follow from its rounding.
    """
    full = int(budget // (kv.full + ratio * kv.swa)) // page * page
    return Pools(full, int(full * ratio) // page * page)


def share(budget: int, kv: KvBytes, page: int = 1) -> Pools:
    """Share one buffer: each pool may grow until the bytes run out."""
    budget = max(budget, 0)
    full, swa = (budget // size // page * page for size in (kv.full, kv.swa))
    return Pools(full, swa, shared_bytes=budget)


def seed_ratio(geometry: Geometry) -> float:
    return SEED_MOE_RATIO if geometry.is_moe else UPSTREAM_RATIO


def full_tokens(prompt: int, new: int, serving: Serving) -> int:
    """Return one request's full-pool tokens at its end: whole pages, one page spare."""
    return _pages(prompt + new + serving.draft_tokens - 1, serving) + serving.page


def swa_tokens(prompt: int, new: int, window: int, serving: Serving) -> int:
    """Return the most sliding tokens that one request holds at once while it decodes.

    With the radix cache on, the last window of its prompt stays locked in the tree. Decoded tokens
    are added until they leave the window; then SGLang frees them in steps of EVICTION_INTERVAL. The
    running step and page rounding complete the count.
    """
    decoded = window + EVICTION_INTERVAL * serving.draft_tokens + serving.page
    held = min(prompt, window) + min(new, decoded)
    return _pages(held + serving.draft_tokens, serving) + serving.page


def in_flight(prompt: int, serving: Serving) -> int:
    """Return the sliding tokens of prefill chunks in flight, beyond what their requests keep."""
    return _pages(min(prompt, serving.chunk) * (2 if serving.overlap else 1), serving)


def concurrent(
    pools: Pools, kv: KvBytes, window: int, prompt: int, new: int, serving: Serving
) -> int:
    """Count how many such requests run at once without a retraction."""
    full = full_tokens(prompt, new, serving)
    swa = swa_tokens(prompt, new, window, serving)
    reserved = in_flight(prompt, serving) + serving.prefix_tails * (window + serving.page)
    if pools.shared_bytes is not None:
        free = pools.shared_bytes - reserved * kv.swa
        return max(0, free // (full * kv.full + swa * kv.swa))
    return max(0, min(pools.full // full, (pools.swa - reserved) // swa))


def longest(
    pools: Pools, kv: KvBytes, window: int, context: int, new: int, serving: Serving
) -> int:
    """Return the longest prompt of a lone request within a context, or 0."""
    return _largest(
        lambda prompt: concurrent(pools, kv, window, prompt, new, serving) >= 1,
        context - new,
    )


def solve_ratio(
    budget: int,
    kv: KvBytes,
    window: int,
    context: int,
    serving: Serving,
    *,
    max_requests: int | None = None,
) -> float:
    """Find the fixed split that serves the most loads, and among those has the best worst load.

    The worst load is relative to sharing the bytes. Loads longer than the context count at that
    length. Loads that do not fit with all bytes shared do not count. Each load has at most
    max_requests requests, so that sliding tokens beyond what they hold go to the full pool.
    Returns UPSTREAM_RATIO if no load fits.
    """
    shared = share(budget, kv, serving.page)
    ideals = {
        load: min(concurrent(shared, kv, window, *load, serving), max_requests or budget)
        for load in loads(context)
    }
    ideals = {load: ideal for load, ideal in ideals.items() if ideal > 0}
    if not ideals:
        return UPSTREAM_RATIO

    def merit(ratio: float) -> tuple[int, float, int]:
        pools = split(budget, kv, ratio, serving.page)
        fractions = [
            min(concurrent(pools, kv, window, *load, serving), ideal) / ideal
            for load, ideal in ideals.items()
        ]
        served = [fraction for fraction in fractions if fraction > 0]
        return len(served), min(served, default=0), pools.full

    return max((step / 1000 for step in range(5, 1001, 5)), key=merit)


def loads(context: int) -> Sequence[tuple[int, int]]:
    """Return WORKLOADS, each cut to the context."""
    cut = {
        (min(prompt, context - new), new) if context > new else (1, context - 1)
        for prompt, new in WORKLOADS
    }
    return sorted(cut)


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest n in 1..most with fits(n), or 0; fits holds up to some n only."""
    low, high = 0, max(0, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _pages(tokens: int, serving: Serving) -> int:
    return ceil(tokens / serving.page) * serving.page
