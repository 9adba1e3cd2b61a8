# SPDX-License-Identifier: Apache-2.0
"""Write a plan as text for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sglang_gemma4_ext.plan.answer import RESERVE, Plan
from sglang_gemma4_ext.plan.options import Option, limit, prefill
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.reserve import default_load
from sglang_gemma4_ext.plan.sizes import GIB

_BAR = 40
SCHEMA = 2  # of the JSON; raised whenever a key is removed or changes its meaning
UNMODELLED = RESERVE + "unmodelled"
# Memory use that cannot be counted in advance.
SLACK = "allocator slack, kernel workspaces, NCCL, rounding of the fraction"
LEGEND = {
    UNMODELLED: f"{SLACK}, and SGLang's allowance; --gemma4-fit auto does without the allowance",
    "weights: swizzled scales": "NVFP4 experts' scales again, in Blackwell's layout",
    "weights: padding of experts": "rows and columns that Humming adds to 4-bit experts",
}


def to_text(asked: Question, plan: Plan, gains: Sequence[Option] = ()) -> str:
    """Write the verdict first, then where the memory goes, then what fits into the KV pools.

    asked: the question before the plan chose
    """
    lines = [title(plan), "", *verdict(plan), ""]
    lines += [*_table(plan.parts, plan.question.memory), *legend(plan), ""]
    if plan.fits:
        lines += [*capacity(asked, plan), *_gains(gains)]
        lines += ["", "Flags:", *(f"  {flag}" for flag in plan.flags)]
    return "\n".join(lines).rstrip()


def verdict(plan: Plan) -> list[str]:
    """Say whether it fits, what else to know, and what would fit."""
    lines = [f"{'Yes' if plan.fits else 'No'}: {plan.reason}.", *(f"{n}." for n in plan.notes)]
    return [*lines, f"The nearest that fits: {plan.nearest}."] if plan.nearest else lines


def to_json(asked: Question, plan: Plan, gains: Sequence[Option] = ()) -> dict[str, Any]:
    """Return the same as plain values: bytes, tokens, counts."""
    return {
        "schema": SCHEMA,
        "model": plan.question.geometry.name,
        "fits": plan.fits,
        "reason": plan.reason,
        "nearest": plan.nearest or None,
        "notes": list(plan.notes),
        "gpu": plan.question.card or None,
        "memory_bytes": plan.question.memory,
        "parts_bytes": plan.parts,
        "weights_source": plan.question.weights.source,
        "weights_formats": {k: list(v) for k, v in plan.question.weights.formats.items()},
        "kv_bytes_per_token": {"full": plan.kv.full, "swa": plan.kv.swa},
        "pools": {
            "shared_bytes": plan.pools.shared_bytes,
            "full_tokens": plan.pools.full,
            "swa_tokens": plan.pools.swa,
            "swa_full_tokens_ratio": plan.ratio,
        },
        "longest_request_tokens": plan.longest_request,
        "limit": limit(asked, plan) if plan.fits else None,
        "concurrent_requests": [
            {"prompt_tokens": prompt, "new_tokens": new, "requests": count}
            for (prompt, new), count in plan.concurrent.items()
        ],
        "options": [
            {
                "name": gain.name,
                "flags": gain.flags,
                "price": gain.price,
                "longest_request_tokens": gain.tokens,
            }
            for gain in gains
        ],
        "flags": plan.flags,
    }


def title(plan: Plan) -> str:
    question = plan.question
    who = "sglang-gemma4-ext" if question.ours else "stock SGLang 0.5.23"
    return f"Gemma 4 {question.geometry.name} ({question.weights.source}) on {gpu(question)}, {who}"


def _prefill(plan: Plan) -> list[str]:
    """Describe the cost of a chunk that the plan made smaller."""
    question, chunk = plan.question, plan.load.chunk
    default = default_load(question.memory, question.geometry, question.tp).chunk
    if chunk >= default:
        return []
    return [f"Its prefill runs in chunks of {chunk}: {prefill(plan)}"]


def _gains(gains: Sequence[Option]) -> list[str]:
    rows = [
        f"  + {gain.name}: {gain.tokens:,} tokens ({gain.flags}; {gain.price})" for gain in gains
    ]
    return ["", "Longer, at a price:", *rows] if rows else []


def gpu(question: Question) -> str:
    """Name the GPUs of a question, such as `RTX 3090 (24.0 GiB) x 2`."""
    size = f"{question.memory / GIB:.1f} GiB"
    name = f"{question.card} ({size})" if question.card else size
    return f"{name} x {question.tp}" if question.tp > 1 else name


def legend(plan: Plan) -> list[str]:
    """Name the formats of the weights, and explain the parts with unusual names."""
    words = LEGEND | ({UNMODELLED: SLACK} if plan.question.tight else {})
    formats = plan.question.weights.formats
    named = "; ".join(f"{kind} {', '.join(found)}" for kind, found in formats.items())
    lines = [f"  weights are stored as: {named}"] if named else []
    return ["", *lines, *(f"  {part}: {words[part]}" for part in plan.parts if part in words)]


def _table(parts: dict[str, int], memory: int) -> list[str]:
    width = max(len(part) for part in parts)
    scale = max(memory, sum(size for size in parts.values() if size > 0))
    return [
        f"  {part:{width}}  {size / GIB:7.2f} GiB  {'#' * max(0, round(_BAR * size / scale))}"
        for part, size in parts.items()
    ]


def capacity(asked: Question, plan: Plan) -> list[str]:
    """Say what the KV pools hold, what limits it, and what prefill costs."""
    pools = plan.pools
    if pools.shared_bytes is None:
        held = f"{pools.full:,} tokens of full attention, {pools.swa:,} of sliding windows"
        held += f" (ratio {plan.ratio:g})"
    else:
        held = f"one buffer, up to {pools.full:,} tokens of full attention"
    lines = [
        f"KV: {held}",
        f"Longest request: {plan.longest_request:,} tokens",
        f"Its limit is {limit(asked, plan)}",
    ]
    rows = [
        f"  {prompt:>9,} + {new:,} tokens  {count:>6,}"
        for (prompt, new), count in plan.concurrent.items()
    ]
    return [*lines, "Requests at once, prompt + new tokens:", *rows, *_prefill(plan)]
