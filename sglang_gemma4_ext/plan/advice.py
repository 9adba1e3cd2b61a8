# SPDX-License-Identifier: Apache-2.0
"""What to pass for a plan that fits, and what to change in a wish that does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sglang_gemma4_ext.plan import reserve
from sglang_gemma4_ext.plan.weights import swizzled_scales

if TYPE_CHECKING:
    from sglang_gemma4_ext.plan.planner import Plan
    from sglang_gemma4_ext.plan.question import Wish


def nearest(wish: Wish, plan_of: Callable[[Wish], Plan]) -> str:
    """The first of the smaller wishes that fits, in words."""
    for words, smaller in _smaller(wish):
        plan = plan_of(smaller)
        if plan.fits:
            return f"{words} (up to {plan.longest_request} tokens a request)"
    return "a GPU with more memory"


def _smaller(wish: Wish) -> list[tuple[str, Wish]]:
    low = replace(wish, low_memory=True, mem_fraction=None, chunk=None)
    short = replace(low, context=None)
    few = replace(short, requests=1)
    fp8 = replace(low, kv_dtype_bytes=1)
    steps = [] if wish.low_memory or not wish.ours else [("--gemma4-low-memory", low)]
    if wish.ours and wish.kv_dtype_bytes > 1:
        steps.append(("--gemma4-low-memory --kv-cache-dtype fp8_e4m3", fp8))
    if wish.ours and wish.requests is not None and wish.requests > 1:
        steps.append(("--gemma4-low-memory --max-running-requests 1", replace(low, requests=1)))
    if wish.ours:
        steps += [
            ("--gemma4-low-memory and a shorter --context-length", short),
            ("--gemma4-low-memory --max-running-requests 1 and a shorter context", few),
        ]
    return [*steps, *((f"--tp {tp}", _parallel(wish, tp)) for tp in (2, 4, 8) if tp > wish.tp)]


def _parallel(wish: Wish, tp: int) -> Wish:
    """The same wish on more GPUs, all weights sharded but towers."""
    parts = {
        part: size if part == "towers" else size * wish.tp // tp
        for part, size in wish.weights.parts.items()
    }
    swizzled = swizzled_scales(wish.geometry, tp) if wish.weights.swizzled else 0
    return replace(wish, tp=tp, weights=replace(wish.weights, parts=parts, swizzled=swizzled))


def fraction(plan: Plan) -> float:
    """mem_fraction_static that keeps the plan's reserve, rounded down to SGLang's three digits."""
    usable = plan.wish.memory - reserve.CUDA_CONTEXT
    kept = sum(size for part, size in plan.parts.items() if part.startswith("reserve"))
    return plan.wish.mem_fraction or math.floor((1 - kept / usable) * 1000) / 1000


def flags(plan: Plan) -> list[str]:
    """What makes the launcher run this plan; nothing that the user has to repeat."""
    wish, load = plan.wish, plan.load
    context = min(plan.longest_request, wish.context or wish.geometry.max_context)
    found = [f"--context-length {context}"]
    if wish.low_memory:
        # Chooses reserve, chunk and requests by itself.
        found.insert(0, "--gemma4-low-memory")
        if wish.chunk is not None:
            found.append(f"--chunked-prefill-size {load.chunk}")
    else:
        found += [
            f"--mem-fraction-static {fraction(plan):g}",
            f"--chunked-prefill-size {load.chunk}",
        ]
    if load.requests is not None and not (wish.low_memory and wish.requests is None):
        found.append(f"--max-running-requests {load.requests}")
    if wish.ours and wish.policy != "auto" and wish.swa_ratio is None:
        found.append(f"--gemma4-swa-policy {wish.policy}")
    if wish.swa_ratio is not None:
        found.append(f"--swa-full-tokens-ratio {wish.swa_ratio:g}")
    if wish.tp > 1:
        found.append(f"--tp {wish.tp}")
    if wish.kv_dtype_bytes == 1:
        found.append("--kv-cache-dtype fp8_e4m3")
    return found
