# SPDX-License-Identifier: Apache-2.0
"""Put together where each byte of a GPU goes, and answer whether a wish fits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sglang_gemma4_ext.plan import advice, pools, reserve
from sglang_gemma4_ext.plan.activations import Step, activation_bytes
from sglang_gemma4_ext.plan.pools import KvBytes, Pools, Serving
from sglang_gemma4_ext.plan.question import Wish, check
from sglang_gemma4_ext.plan.sizes import GIB

NEW_TOKENS = 1024  # of each request, where a plan needs a number
# A smaller chunk computes with less and leaves less sliding KV in flight, and prefills slower.
LOW_MEMORY_CHUNKS = (2048, 1024, 512, 256)
LOW_MEMORY_REQUESTS = 16


@dataclass(frozen=True)
class Plan:
    """The answer: bytes by purpose, pools, what they hold, and what to pass.

    parts sum to the GPU's memory; `kv` is negative where weights and reserve alone exceed it.
    longest: the longest prompt of a lone request; concurrent: by (prompt, new) tokens.
    """

    wish: Wish
    parts: dict[str, int]
    kv: KvBytes
    pools: Pools
    ratio: float | None
    load: reserve.Load
    longest: int
    concurrent: dict[tuple[int, int], int]
    fits: bool
    reason: str
    flags: list[str] = field(default_factory=list)
    nearest: str = ""

    @property
    def kv_tokens(self) -> int:
        """Tokens of full attention that the pools hold if nothing else is in them."""
        return self.pools.full

    @property
    def longest_request(self) -> int:
        """Prompt and new tokens of the longest lone request, 0 if none fits."""
        return self.longest + NEW_TOKENS if self.longest else 0


def make(wish: Wish) -> Plan:
    """Plan a wish. Raises PlanError on contradictions; what merely does not fit is an answer."""
    check(wish)
    plan = _best(wish)
    return plan if plan.fits else replace(plan, nearest=advice.nearest(wish, _best))


def _best(wish: Wish) -> Plan:
    """In low-memory mode the largest of LOW_MEMORY_CHUNKS that fits, unless the user chose."""
    if not wish.low_memory or wish.chunk is not None:
        return _plan(wish)
    plans = (_plan(replace(wish, chunk=chunk)) for chunk in LOW_MEMORY_CHUNKS)
    for plan in plans:
        if plan.fits:
            break
    return replace(plan, wish=wish)


def _plan(wish: Wish) -> Plan:
    load = _load(wish)
    parts = _parts(wish, load)
    kv = pools.kv_bytes(
        wish.geometry,
        wish.kv_dtype_bytes,
        wish.tp,
        shared_layers_too=not wish.ours,
        draft_layers=0 if wish.ours else wish.draft_layers,
    )
    serving = Serving(wish.page, load.chunk, wish.draft_tokens)
    split, ratio = _split(wish, max(parts["kv"], 0), kv, serving)
    longest = pools.longest(
        split, kv, wish.geometry.window, wish.geometry.max_context, NEW_TOKENS, serving
    )
    counts = {
        (prompt, new): pools.concurrent(split, kv, wish.geometry.window, prompt, new, serving)
        for prompt, new in _lengths(wish)
    }
    fits, reason = _verdict(wish, parts, split, kv, serving, longest)
    plan = Plan(wish, parts, kv, split, ratio, load, longest, counts, fits, reason)
    return replace(plan, flags=advice.flags(plan)) if fits else plan


def _load(wish: Wish) -> reserve.Load:
    requests = wish.requests
    load = reserve.default_load(wish.memory, wish.geometry, wish.tp, requests)
    if wish.low_memory:
        # The table and the graphs of requests that cannot run anyway are not free.
        requests = requests or LOW_MEMORY_REQUESTS
    return replace(
        load,
        chunk=wish.chunk or load.chunk,
        requests=requests,
        graph_batch=min(load.graph_batch, requests or load.graph_batch),
        context=wish.context or wish.geometry.max_context,
        draft_tokens=wish.draft_tokens,
    )


def _parts(wish: Wish, load: reserve.Load) -> dict[str, int]:
    """Bytes by purpose; `kv` is what is left."""
    usable = wish.memory - reserve.CUDA_CONTEXT
    if wish.mem_fraction is not None:
        kept = int(usable * (1 - wish.mem_fraction))
    elif wish.ours:
        kept = reserve.reserve(wish.memory, wish.geometry, load, low_memory=wish.low_memory)
    else:
        kept = reserve.flat(wish.memory, load)
    step = Step(load.chunk, load.graph_batch, load.draft_tokens, load.tp)
    computing = min(kept, activation_bytes(wish.geometry, step))
    graphs = min(kept - computing, reserve.graph_bytes(load))
    tables = min(kept - computing - graphs, reserve.late_allocations(wish.geometry, load))
    parts = {"CUDA context": reserve.CUDA_CONTEXT}
    parts |= {f"weights: {part}": size for part, size in _held(wish).items()}
    parts |= {
        "reserve: activations": computing,
        "reserve: CUDA graphs": graphs,
        "reserve: request table, attention buffers": tables,
        "reserve: unmodelled": kept - computing - graphs - tables,
    }
    return {**parts, "kv": wish.memory - sum(parts.values())}


def _held(wish: Wish) -> dict[str, int]:
    """Bytes of all weights on the GPU by part."""
    others = {
        "draft": wish.draft_bytes,
        "swizzled scales": 0 if wish.ours else wish.weights.swizzled,
    }
    return {**wish.weights.parts, **{part: size for part, size in others.items() if size}}


def _split(wish: Wish, budget: int, kv: KvBytes, serving: Serving) -> tuple[Pools, float | None]:
    """The pools of the wish's policy, and their ratio, None where the bytes are shared."""
    if wish.swa_ratio is not None:
        ratio = wish.swa_ratio
    elif wish.policy == "upstream" or not wish.ours:
        ratio = pools.UPSTREAM_RATIO
    elif wish.policy == "seed":
        ratio = pools.seed_ratio(wish.geometry)
    elif wish.draft_bytes:
        context = wish.context or wish.geometry.max_context
        ratio = pools.solve_ratio(
            budget, kv, wish.geometry.window, context, serving, max_requests=wish.requests
        )
    else:
        return pools.share(budget, kv, wish.page), None
    return pools.split(budget, kv, ratio, wish.page), ratio


def _lengths(wish: Wish) -> list[tuple[int, int]]:
    most = wish.context or wish.geometry.max_context
    lengths = [load for load in pools.WORKLOADS if sum(load) <= most]
    whole = (most - NEW_TOKENS, NEW_TOKENS)
    return [*lengths, whole] if whole not in lengths and whole[0] > 0 else lengths


def _verdict(
    wish: Wish, parts: dict[str, int], split: Pools, kv: KvBytes, serving: Serving, longest: int
) -> tuple[bool, str]:
    held = sum(_held(wish).values())
    if parts["kv"] <= 0:
        over = -parts["kv"] / GIB
        if held + reserve.CUDA_CONTEXT >= wish.memory:
            return False, (
                f"the weights alone ({held / GIB:.1f} GiB) do not fit {wish.memory / GIB:.1f} GiB"
            )
        return False, f"weights and reserve together are {over:.1f} GiB too large"
    wanted = (wish.context or 0) - NEW_TOKENS
    if longest == 0 or longest < wanted:
        most = f"{longest + NEW_TOKENS} tokens" if longest else "no request"
        return False, f"the KV pools hold {most}, too few for a context of {wish.context or 1}"
    if wish.context and wish.requests:
        count = pools.concurrent(
            split, kv, wish.geometry.window, max(1, wanted), NEW_TOKENS, serving
        )
        if count < wish.requests:
            many = f"{count} of {wish.requests} requests"
            return False, f"{many} of {wish.context} tokens fit at once"
    return True, f"{parts['kv'] / GIB:.1f} GiB are left for KV"
