# SPDX-License-Identifier: Apache-2.0
"""Check the fitted plan by hand, by brute force, for monotony and against SGLang's choice."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sglang_gemma4_ext.plan import options, planner, search, weights
from sglang_gemma4_ext.plan.answer import NEW_TOKENS, Plan
from sglang_gemma4_ext.plan.cards import CARDS
from sglang_gemma4_ext.plan.geometry import BUILT_IN, PlanError
from sglang_gemma4_ext.plan.question import Question, parse_allowed
from sglang_gemma4_ext.plan.served import Draft
from sglang_gemma4_ext.plan.sizes import GIB, MIB
from tests.unit.test_plan_answers import CONTEXT, ours, tight_reserve


def asked(model: str, fmt: str, gpu: str | float, **choices) -> Question:
    geometry, held = BUILT_IN[model], weights.estimate(BUILT_IN[model], fmt, choices.get("tp", 1))
    if isinstance(gpu, str):
        card = CARDS[gpu]
        return Question(geometry, held, card.memory, capability=card.capability, **choices)
    return Question(geometry, held, int(gpu * GIB), **choices)


# Bytes of the weights (see test_plan_answers.py), then of one full and of one sliding token.
HELD = {
    ("12B", "nvfp4"): (8_153_333_760, 16_384, 327_680),
    ("26B-A4B", "nvfp4"): (15_278_061_568, 20_480, 204_800),
    ("31B", "nvfp4"): (19_354_288_128, 81_920, 819_200),
    ("E4B", "bf16"): (15_035_006_976, 16_384, 40_960),
}


@pytest.mark.parametrize(
    ("model", "fmt", "gib", "at_once", "chunk", "context"),
    [
        ("12B", "nvfp4", 12, 1, 512, 129_727),
        ("12B", "nvfp4", 12, 2, 512, 44_740),
        ("12B", "nvfp4", 16, 1, 2048, 262_144),
        ("12B", "nvfp4", 24, 2, 4096, 262_144),
        ("31B", "nvfp4", 24, 1, 512, 27_466),
        ("31B", "nvfp4", 32, 1, 512, 131_839),
        ("31B", "nvfp4", 48, 2, 512, 160_385),
        ("26B-A4B", "nvfp4", 18, 1, 512, 90_301),
        ("26B-A4B", "nvfp4", 24, 1, 4096, 262_144),
        ("E4B", "bf16", 16, 1, 512, 27_683),
    ],
)
def test_by_hand(model, fmt, gib, at_once, chunk, context):
    """Fit this many whole contexts beside the reserve for them, and not one token more."""
    plan = search.fit(asked(model, fmt, gib, at_once=at_once))
    most = BUILT_IN[model].max_context
    assert (plan.load.chunk, plan.load.context) == (chunk, context)
    assert left(model, fmt, gib, at_once, chunk, context) >= 0
    assert context == most or left(model, fmt, gib, at_once, chunk, context + 1) < 0
    # Where SGLang would take another chunk, a larger chunk holds less.
    if chunk != 4096 and (gib >= 20 or chunk != 2048):
        assert left(model, fmt, gib, at_once, 2 * chunk, context) < 0


def left(
    model: str, fmt: str, gib: int, at_once: int, chunk: int, context: int, kv_share: int = 1
) -> int:
    """Give the KV bytes beside the reserve for 16 requests, the fewest that are planned.

    kv_share: the divisor of the cache's bytes, 2 with one byte a value
    """
    held, full, sliding = HELD[model, fmt]
    full, sliding = full // kv_share, sliding // kv_share
    window = BUILT_IN[model].window
    batch = 8 if gib < 20 else 16
    kept = ours(tight_reserve(model, chunk, context, graph_batch=batch), gib)
    # One full token each and one spare. Sliding: the prompt's window, up to a window of
    # what follows,
    # 128 tokens that wait to be freed, one page, the step and a spare page.
    swa = min(context - 1024, window) + min(1024, window + 128 + 1) + 1 + 1
    one = (context + 1) * full + swa * sliding
    flying = 2 * min(context - 1024, chunk) * sliding
    return gib * GIB - CONTEXT - held - kept - flying - at_once * one


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), None])
def test_eight_bit_kv_by_hand(capability):
    """31B in NVFP4 on 24 GiB: one byte a value holds this context, and not one token more."""
    allowed = frozenset({"kv8"})
    plan = search.fit(replace(asked("31B", "nvfp4", 24), capability=capability, allowed=allowed))
    chunk, context = plan.load.chunk, plan.load.context
    assert (plan.kv.full, plan.kv.swa) == (40_960, 409_600)
    assert left("31B", "nvfp4", 24, 1, chunk, context, kv_share=2) >= 0
    assert left("31B", "nvfp4", 24, 1, chunk, context + 1, kv_share=2) < 0
    stock = planner.make(replace(asked("31B", "nvfp4", 24), ours=False))
    assert stock.longest_request < 3000 and context > 40_000


@given(
    st.sampled_from(sorted(BUILT_IN)), st.sampled_from(["nvfp4", "fp8"]),
    st.integers(9 * GIB, 59 * GIB), st.integers(1, 3), st.sampled_from([None, 4096]),
)  # fmt: skip
@example("E2B", "nvfp4", 55 * GIB, 1, None)  # stock runs more at once than the grid's 512
@settings(max_examples=15, deadline=None)
def test_no_other_choice_is_better(model, fmt, memory, at_once, context):
    """Search chunk, requests and context by brute force, each answered separately."""
    question = asked(model, fmt, memory / GIB, at_once=at_once, context=context)
    plan = search.best(question)
    stock = planner.answer(replace(question, ours=False))
    fewest = max(search.FEWEST_REQUESTS, at_once, *stock.concurrent.values())
    steps = (
        plan.load.context - 1,
        plan.load.context,
        plan.load.context + 1,
        plan.load.context + 99,
    )
    contexts = [context] if context else [c for c in steps if c <= question.geometry.max_context]
    others: list[Plan] = []
    for chunk, requests, length in itertools.product(
        (4096, 2048, 1024, 512), (16, 32, 64, 128, 512, plan.load.requests), contexts
    ):
        if requests >= fewest and length > NEW_TOKENS and not (chunk == 4096 and memory < 20 * GIB):
            tried = replace(question, tight=True, chunk=chunk, requests=requests, context=length)
            other = planner.answer(tried)
            if other.fits and search._serves_as_much(other, stock):
                others.append(other)
    if plan.fits and plan.question.tight and plan.load.chunk >= search.EXACT_CHUNK:
        merit = search._merit(question, plan)
        assert all(merit >= search._merit(question, other) for other in others)
    else:
        assert not others


@pytest.mark.parametrize("card", sorted(CARDS))
@pytest.mark.parametrize("model", sorted(BUILT_IN))
def test_never_less_than_sglangs_own_choice(model, card):
    question = asked(model, "nvfp4", card)
    fits = planner.answer(replace(question, ours=False)).parts["kv"] > 0
    assert never_less(question) or not (fits and question.is_target)


@given(
    st.sampled_from(sorted(BUILT_IN)), st.sampled_from(sorted(weights.FORMATS)),
    st.integers(6 * GIB, 192 * GIB), st.sampled_from([1, 2, 4]),
    st.sampled_from([None, 512, 8192]), st.sampled_from([None, 4, 300]),
    st.sampled_from([None, 2048, 65_536]), st.sampled_from([1, 64]), st.booleans(),
)  # fmt: skip
@settings(max_examples=10, deadline=None)
def test_never_less_around_any_flags(
    model, fmt, memory, tp, chunk, requests, context, page, drafting
):
    draft = Draft("draft", 200 * MIB, 4, 4) if drafting else Draft()
    never_less(
        asked(model, fmt, memory / GIB, tp=tp, chunk=chunk, requests=requests, context=context,
              page=page, draft=draft)
    )  # fmt: skip


def never_less(question: Question) -> bool:
    """Tell whether a plan was fitted, after checking it against what stock SGLang serves."""
    plan, stock = search.best(question), planner.answer(replace(question, ours=False))
    if plan.question == question:
        return False  # the launcher adds no flag
    assert plan.longest_request >= stock.longest_request
    for load, count in stock.concurrent.items():
        assert plan.concurrent.get(load, 0) >= count
    for name in ("chunk", "requests", "context"):
        if (value := getattr(question, name)) is not None:
            assert getattr(plan.load, name) == value
    return True


@given(st.sampled_from(sorted(BUILT_IN)), st.integers(9 * GIB, 59 * GIB), st.integers(0, 8 * GIB))
@settings(max_examples=20, deadline=None)
def test_more_memory_never_holds_a_shorter_request(model, memory, more):
    less, larger = (
        search.best(asked(model, "nvfp4", min(size, 59 * GIB) / GIB))
        for size in (memory, memory + more)
    )
    # The search drops a slow chunk once more memory allows a faster one that holds a little less.
    if less.load.chunk >= search.EXACT_CHUNK:
        assert less.longest_request <= larger.longest_request


def test_large_gpus_keep_their_chunk_and_allowance():
    plan = search.fit(asked("12B", "nvfp4", "h100"))
    plain = planner.answer(asked("12B", "nvfp4", "h100"))
    assert plan.load.chunk == plain.load.chunk == 8192
    assert plan.concurrent[search.TYPICAL] >= plain.concurrent[search.TYPICAL]
    tight = search.fit(asked("12B", "nvfp4", "h100", low_memory=True))
    assert tight.reserve < plan.reserve


@pytest.mark.parametrize("settled", [{"mem_fraction": 0.8}, {"swa_ratio": 0.5}, {"ours": False}])
def test_values_set_by_the_user_are_not_searched(settled):
    question = asked("12B", "nvfp4", "l4", **settled)
    assert search.fit(question) == planner.make(question)


def test_a_blackwell_is_left_to_sglang():
    question = asked("12B", "nvfp4", "rtx5090")
    assert search.fit(question) == planner.make(question)


@pytest.mark.parametrize(
    ("card", "own", "offered"),
    [("l4", True, True), ("l4", False, True), ("a10g", True, True), ("a10g", False, False)],
)
def test_an_fp8_cache_is_offered_where_it_runs(card, own, offered):
    question = asked("31B", "nvfp4", card, own_attention=own)
    names = [option.name for option in options.find(question, search.fit(question))]
    kv8 = ["kv8 + chunk 256", "kv8"] if offered else []
    assert names == [*kv8, "head8", "chunk 256"]


def test_each_option_holds_what_it_promises():
    question = asked("31B", "nvfp4", "rtx4090")
    plan = search.fit(question)
    both, kv8, head8, slow = options.find(question, plan)
    small = question.weights.with_int8_head(question.geometry)
    assert head8.tokens == search.fit(replace(question, weights=small)).longest_request
    assert kv8.tokens == search.fit(replace(question, kv_dtype="fp8_e4m3")).longest_request
    assert slow.tokens == search.fit(replace(question, chunk=256)).longest_request
    narrow = replace(question, kv_dtype="fp8_e4m3", chunk=256)
    assert both.tokens == search.fit(narrow).longest_request
    assert both.tokens > kv8.tokens > slow.tokens > plan.longest_request
    # 4096 is SGLang's own chunk there: each pass runs the kernels of 60 layers.
    passes, default = -(-slow.tokens // 256), -(-slow.tokens // 4096)
    assert slow.price == f"slower prefill, {passes} passes of 60 layers where 4096 takes {default}"


def test_a_draft_is_a_choice():
    question = asked("31B", "nvfp4", "a6000", draft=Draft("draft", 200 * MIB, 4, 4))
    plan = search.fit(question)
    without = {option.name: option.tokens for option in options.find(question, plan)}["no draft"]
    assert without == search.fit(replace(question, draft=Draft())).longest_request
    assert without > plan.longest_request


@pytest.mark.parametrize(
    ("model", "card", "context", "taken"),
    [
        ("31B", "rtx4090", None, True),
        ("31B", "rtx3090", None, True),  # our attention reads it from 8.0 on
        ("26B-A4B", "rtx4090", None, False),  # its whole context fits in BF16
        ("31B", "rtx4090", 65_536, True),  # does not fit in BF16
        ("31B", "h100", None, True),  # more requests at once
    ],
)
def test_eight_bits_are_taken_with_leave_and_for_a_gain(model, card, context, taken):
    question = asked(model, "nvfp4", card, context=context)
    plan = search.fit(replace(question, allowed=frozenset({"kv8"})))
    assert plan.fits and (plan.kv.full == search.fit(question).kv.full // 2) == taken
    assert ("--kv-cache-dtype fp8_e4m3" in plan.flags) == taken


def test_the_limit_adds_up():
    """31B on 24 GiB, one request: full tokens, a window, two chunks of 512 in flight."""
    question = asked("31B", "nvfp4", 24)
    plan = search.fit(question)
    full = (plan.longest_request + 1) * 81_920 / GIB
    windows, flying = 2050 * 819_200 / GIB, 2 * 512 * 819_200 / GIB
    said = options.limit(question, plan)
    assert said == (
        f"KV memory; it fills {full:.2f} GiB in full layers (80 KiB a token), {windows:.2f} in "
        f"sliding windows and {flying:.2f} for chunks in flight, of {plan.parts['kv'] / GIB:.2f}"
    )
    assert 0 <= plan.parts["kv"] / GIB - full - windows - flying < 81_920 / GIB


def test_other_limits_are_named():
    question = asked("12B", "nvfp4", 24)
    assert options.limit(question, search.fit(question)) == "the model's own context"
    question = replace(question, context=4096)
    assert options.limit(question, search.fit(question)) == "--context-length"
    question = asked("31B", "nvfp4", 30, draft=Draft("draft", 200 * MIB, 4, 4))
    assert "the KV pool of " in options.limit(question, search.fit(question))


def test_an_unknown_allowance_is_refused():
    assert parse_allowed("kv8, ") == {"kv8"}
    with pytest.raises(PlanError, match="offers head8, kv8, ple-host, not 'head2'"):
        parse_allowed("kv8,head2")
    with pytest.raises(PlanError, match="experts-host is not available yet: "):
        parse_allowed("experts-host")


def test_the_smallest_set_of_choices_that_gains_the_most_is_made():
    """31B on an L4: both lossy choices lengthen the context. E2B there needs none of them."""
    both = frozenset({"kv8", "head8", "ple-host"})
    question = asked("31B", "nvfp4", "l4")
    found = {
        names: search.fit(replace(question, allowed=frozenset(names))).longest_request
        for names in ((), ("head8",), ("kv8",), ("kv8", "head8"))
    }
    assert found[()] < found["head8",] < found["kv8",] < found["kv8", "head8"]
    plan = search.fit(replace(question, allowed=both))
    assert plan.longest_request == found["kv8", "head8"]
    assert (plan.question.head, plan.question.kv_dtype) == ("int8", "fp8_e4m3")
    small = asked("E2B", "nvfp4", "l4")
    plan = search.fit(replace(small, allowed=both))
    made = plan.question
    assert (made.head, made.ple, made.kv_dtype) == ("checkpoint", "gpu", "auto")


@pytest.mark.parametrize("draft", [Draft(), Draft("draft", 200 * MIB, 4, 4)])
def test_an_answer_takes_under_two_seconds(draft):
    question = asked("31B", "nvfp4", "rtx4090", draft=draft)
    began = time.process_time()
    plan = search.fit(question)
    options.find(question, plan)
    assert time.process_time() - began < 2
