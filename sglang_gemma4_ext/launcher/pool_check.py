# SPDX-License-Identifier: Apache-2.0
"""Compare the KV pools that a server made with those that were planned."""

from __future__ import annotations

from sglang_gemma4_ext.plan import pools
from sglang_gemma4_ext.plan.answer import Plan
from sglang_gemma4_ext.plan.sizes import GIB

TOLERANCE = 0.03


def describe(plan: Plan, made_tokens: int, free: int | None) -> list[str]:
    """Return a line on planned and made pools and free memory, and a warning if they differ.

    made_tokens: SGLang's max_total_num_tokens
    free: bytes of the GPU that nobody uses now; None if unknown
    """
    ratio = pools.UPSTREAM_RATIO if plan.ratio is None else plan.ratio
    # SGLang counts a shared buffer, too, in tokens of a fixed split.
    label = pools.split(max(plan.parts["kv"], 0), plan.kv, ratio, plan.question.page).full
    cell = plan.kv.full + ratio * plan.kv.swa
    left = "" if free is None else f"; {free / GIB:.2f} GiB of the GPU are free"
    made = f"{made_tokens * cell / GIB:.2f} GiB made, {_held(plan, made_tokens, cell)}"
    if label <= 0:
        return [f"KV pools {made}{left}"]
    off = made_tokens / label - 1
    lines = [f"KV pools {label * cell / GIB:.2f} GiB planned, {made} ({off:+.1%}){left}"]
    if abs(off) > TOLERANCE:
        more = "more" if off > 0 else "less"
        lines.append(
            f"warning: KV pools are {abs(off):.0%} {more} than planned: compare the reserve above "
            "with nvidia-smi, and report it with doctor --json"
        )
    return lines


def _held(plan: Plan, made_tokens: int, cell: float) -> str:
    """Say what the made pools hold, in tokens."""
    if plan.ratio is None:
        return f"up to {int(made_tokens * cell / plan.kv.full):,} tokens of full attention"
    return f"{made_tokens:,} tokens of full attention"
