# SPDX-License-Identifier: Apache-2.0
"""List what lossy or slower choices would add to a plan, and say where its limit comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from sglang_gemma4_ext.plan import choices, pools, search
from sglang_gemma4_ext.plan.answer import NEW_TOKENS, Plan
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.reserve import default_load
from sglang_gemma4_ext.plan.served import NO_DRAFT
from sglang_gemma4_ext.plan.sizes import GIB


@dataclass(frozen=True)
class Option:
    """Describe a choice by name, the flags that make it, its price and its longest request."""

    name: str
    flags: str
    price: str
    tokens: int


def find(question: Question, plan: Plan) -> list[Option]:
    """Return the choices that allow a longer request than the best plan, the longest first."""
    if not question.is_free:
        return []
    found = []
    made = plan.question
    question = replace(question, weights=made.weights, ple=made.ple, head=made.head)
    for name, flags, price, other in _choices(question, plan):
        longer = search.best(other)
        if longer.fits and longer.longest_request > plan.longest_request:
            said = f"{price}, {prefill(longer)}" if "chunk" in name else price
            found.append(Option(name, flags, said, longer.longest_request))
    return sorted(found, key=lambda option: -option.tokens)


def _choices(question: Question, plan: Plan) -> list[tuple[str, str, str, Question]]:
    """Return name, flags, price and question of each choice that was left to the plan."""
    narrow, slow = f"chunk {search.SMALLEST_CHUNK}", search.SMALLEST_CHUNK
    chunk_flag = f"--chunked-prefill-size {slow}"
    found = []
    has_wide_kv = plan.question.kv_dtype == "auto" and plan.question.kv_dtype_bytes > 1
    kv8 = replace(question, kv_dtype="fp8_e4m3")
    if has_wide_kv and question.runs_e4m3:
        found.append(("kv8", "--gemma4-allow kv8", "KV in fp8_e4m3, lossy", kv8))
    if question.chunk is None:
        smaller = replace(question, chunk=slow)
        found.append((narrow, chunk_flag, "slower prefill", smaller))
        if has_wide_kv and question.runs_e4m3:
            both = f"--gemma4-allow kv8 {chunk_flag}"
            found.append(
                (f"kv8 + {narrow}", both, "lossy, slower prefill", replace(kv8, chunk=slow))
            )
    for name, flag, price in (
        ("ple-host", "--gemma4-ple host", "a row a token over the bus"),
        ("head8", "--gemma4-head int8", "embedding and head in INT8, lossy"),
    ):
        changed = choices.CHOICES[name](question)
        if changed != question:
            found.append((name, flag, price, changed))
    if question.draft:
        without = replace(question, draft=NO_DRAFT)
        found.append(("no draft", "no draft model", "one token a decode step", without))
    return found


def prefill(plan: Plan) -> str:
    """Say what a chunk below SGLang's own costs: passes through all layers for a prompt."""
    question, chunk = plan.question, plan.load.chunk
    default = default_load(question.memory, question.geometry, question.tp).chunk
    now, then = (ceil(plan.longest_request / size) for size in (chunk, default))
    layers = question.geometry.layers
    return f"{now:,} passes of {layers} layers where {default} takes {then:,}"


def limit(question: Question, plan: Plan) -> str:
    """Say why no longer request fits. `question` is what was asked, before the plan chose."""
    if question.context is not None and plan.longest_request >= question.context:
        return "--context-length"
    if plan.longest_request >= question.geometry.max_context:
        return "the model's own context"
    many, prompt, window = question.at_once, plan.longest, question.geometry.window
    serving = pools.Serving(question.page, plan.load.chunk, question.draft.tokens)
    full = many * pools.full_tokens(prompt, NEW_TOKENS, serving)
    sliding = many * pools.swa_tokens(prompt, NEW_TOKENS, window, serving)
    flying = pools.in_flight(prompt, serving)
    who = f"{many} such requests fill" if many > 1 else "it fills"
    if plan.pools.shared_bytes is None:
        rows = (("full layers", full, plan.pools.full),
                ("sliding windows", sliding + flying, plan.pools.swa))  # fmt: skip
        pool, needed, held = max(rows, key=lambda row: row[1] / max(1, row[2]))
        return f"the KV pool of {pool}; {who} {needed:,} of {held:,} tokens"
    sizes = (size / GIB for size in
             (full * plan.kv.full, sliding * plan.kv.swa, flying * plan.kv.swa))  # fmt: skip
    in_full, in_windows, in_flight = sizes
    return (
        f"KV memory; {who} {in_full:.2f} GiB in full layers ({plan.kv.full / 1024:.0f} KiB a "
        f"token), {in_windows:.2f} in sliding windows and {in_flight:.2f} for chunks in flight, "
        f"of {plan.parts['kv'] / GIB:.2f}"
    )
