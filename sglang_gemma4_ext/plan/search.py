# SPDX-License-Identifier: Apache-2.0
"""Find the best plan: choose chunk, requests and context where the user chose nothing.

A candidate keeps free what the model works with, without an allowance (reserve.py). It is admitted
if it serves every load at least as well as stock SGLang. That means its longest request and, for
each of pools.WORKLOADS, the number of requests at once. Among the admitted candidates the best is

- below 60 GiB: the longest context for `at_once` requests, then the largest chunk, then the most
  requests at once;
- below 60 GiB with a context from the user: the most requests of that length at once, then the
  largest chunk;
- from 60 GiB on throughput counts first: SGLang's own chunk, then the most requests of TYPICAL
  length, then the longest context. The reserve keeps its allowance. Where fewer than WORTHWHILE
  such requests run at once, context counts first there, too.

A chunk below EXACT_CHUNK prefills more slowly and is used only where nothing fits without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sglang_gemma4_ext.plan import advice, choices, planner, reserve
from sglang_gemma4_ext.plan.answer import NEW_TOKENS, Plan
from sglang_gemma4_ext.plan.question import Question, check
from sglang_gemma4_ext.plan.sizes import GIB

THROUGHPUT_FROM = 60 * GIB  # where SGLang, too, chooses for throughput
TYPICAL = (8192, 1024)
WORTHWHILE = 4  # of TYPICAL at once; below, context counts first on a large GPU, too
EXACT_CHUNK, SMALLEST_CHUNK = 512, 256
FEWEST_REQUESTS, MOST_REQUESTS = 16, 2048


def fit(question: Question) -> Plan:
    """Return the best plan for a question, or why nothing fits and what would.

    On a GPU that the memory patches do not serve, or where no candidate serves as much as stock
    SGLang, this is planner.answer's plan.
    Raises PlanError on contradictions.
    """
    check(question)
    plan = best(question)
    for changed in choices.allowed(question):
        other = best(changed)
        # A lossy or slower choice is made only for what counts first.
        gains = _merit(question, other)[0] > _merit(question, plan)[0]
        if other.fits and (gains or not plan.fits):
            plan = other
    return plan if plan.fits else replace(plan, nearest=advice.nearest(question, best))


def best(question: Question) -> Plan:
    """Return the best plan, without advice where nothing fits."""
    if not question.is_free:
        return planner.answer(question)
    if for_throughput(question):
        plan = _best_of(question)
        if plan.fits and plan.concurrent.get(TYPICAL, 0) >= WORTHWHILE:
            return plan
        question = replace(question, low_memory=True)
    return _best_of(question)


def _best_of(question: Question) -> Plan:
    """Return the best candidate, else SGLang's choice under our patches, else the tightest plan."""
    stock = planner.answer(replace(question, ours=False, policy="auto"))
    for slow in (False, True):
        plans = [plan for plan in _candidates(question, stock, slow) if plan.fits]
        if plans:
            return max(plans, key=lambda plan: _merit(question, plan))
    plain = planner.answer(question)
    return plain if plain.fits else _tightest(question)


def _tightest(question: Question) -> Plan:
    """Return the plan that leaves the most for KV, to state the shortfall."""
    chunk = question.chunk or SMALLEST_CHUNK
    requests = question.requests or max(FEWEST_REQUESTS, question.at_once)
    return planner.answer(replace(question, tight=True, chunk=chunk, requests=requests))


def for_throughput(question: Question) -> bool:
    """Tell whether throughput counts first: on a large GPU, unless low memory is asked for."""
    return question.memory >= THROUGHPUT_FROM and not question.low_memory


def _candidates(question: Question, stock: Plan, slow: bool) -> Iterator[Plan]:
    fewest = max(FEWEST_REQUESTS, question.at_once, *stock.concurrent.values())
    for chunk in _chunks(question, slow):
        longest = 0
        for requests in _request_counts(question, fewest):
            tight = not for_throughput(question)
            tried = replace(question, tight=tight, chunk=chunk, requests=requests)
            context = question.context or _longest_context(tried)
            # More running requests take KV memory, so they are tried only at no cost in context.
            if context < longest and tight:
                break
            longest = max(longest, context)
            if context:
                plan = planner.answer(replace(tried, context=context))
                if _serves_as_much(plan, stock):
                    yield plan


def _chunks(question: Question, slow: bool) -> list[int]:
    default = reserve.default_load(question.memory, question.geometry, question.tp).chunk
    if question.chunk is not None:
        return [question.chunk]
    if slow:
        return [SMALLEST_CHUNK]
    if for_throughput(question):
        return [default]
    return [default >> step for step in range(8) if default >> step >= EXACT_CHUNK]


def _request_counts(question: Question, fewest: int) -> list[int]:
    if question.requests is not None:
        return [question.requests]
    powers = [1 << power for power in range(MOST_REQUESTS.bit_length())]
    return [count for count in powers if count >= fewest] or [MOST_REQUESTS]


def _longest_context(question: Question) -> int:
    """Return the longest context of which `at_once` requests fit, or 0.

    The request table grows with the context, which reduces the memory for KV.
    """
    low, high = 0, question.geometry.max_context
    if planner.answer(replace(question, context=high)).fits:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        fits = middle > NEW_TOKENS and planner.answer(replace(question, context=middle)).fits
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _serves_as_much(plan: Plan, stock: Plan) -> bool:
    """Tell whether every load is served at least as well as by stock SGLang."""
    if plan.longest_request < stock.longest_request:
        return False
    return all(plan.concurrent.get(load, 0) >= n for load, n in stock.concurrent.items())


def _merit(question: Question, plan: Plan) -> tuple[int, ...]:
    """Return the figures by which plans are ranked, the most important first."""
    context, chunk = plan.load.context, plan.load.chunk
    at_once, unused = sum(plan.concurrent.values()), -(plan.load.requests or 0)
    whole = plan.concurrent.get((context - NEW_TOKENS, NEW_TOKENS), 0)
    if for_throughput(question):
        return plan.concurrent.get(TYPICAL, whole), context, at_once, unused
    if question.context is not None:
        return whole, chunk, at_once, unused
    return context, chunk, at_once, unused
