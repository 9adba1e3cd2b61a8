# SPDX-License-Identifier: Apache-2.0
"""Check the plan's flags, its nearest alternative after a failure, and the figures in its text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sglang_gemma4_ext.plan import advice, options, planner, pools, report, search, weights
from sglang_gemma4_ext.plan.answer import NEW_TOKENS
from sglang_gemma4_ext.plan.cards import CARDS
from sglang_gemma4_ext.plan.geometry import BUILT_IN, PlanError
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.served import Draft
from sglang_gemma4_ext.plan.sizes import GIB
from sglang_gemma4_ext.plan.weights import Weights


def question(model: str, gib: float, fmt: str = "nvfp4", **more: Any) -> Question:
    geometry = BUILT_IN[model]
    held = weights.estimate(geometry, fmt, more.get("tp", 1))
    return Question(geometry, held, int(gib * GIB), **more)


@pytest.mark.parametrize(
    ("asked", "passed"),
    [
        ({"kv_dtype": "fp8_e5m2"}, "--kv-cache-dtype fp8_e5m2"),
        ({"tp": 2}, "--tp 2"),
        ({"swa_ratio": 0.25}, "--swa-full-tokens-ratio 0.25"),
        ({"policy": "seed"}, "--gemma4-swa-policy seed"),
        ({"requests": 3}, "--max-running-requests 3"),
        ({"chunk": 1024}, "--chunked-prefill-size 1024"),
        ({"context": 8192}, "--context-length 8192"),
        ({"mem_fraction": 0.7}, "--mem-fraction-static 0.7"),
    ],
)
def test_requested_values_become_flags(asked, passed):
    answer = planner.make(question("12B", 48, **asked))
    assert answer.fits and passed in answer.flags
    plain = planner.make(question("12B", 48))
    flag = passed.partition(" ")[0]
    defaults = ("--context-length", "--mem-fraction-static", "--chunked-prefill-size")
    assert passed not in plain.flags
    assert any(f.startswith(flag) for f in plain.flags) == (flag in defaults)


def test_the_memory_fraction_keeps_the_reserve():
    """Round down to three digits, as SGLang reads; rounding up would take from the reserve."""
    for gib in range(16, 97, 5):
        answer = planner.make(question("12B", gib))
        (fraction,) = (f.split()[1] for f in answer.flags if f.startswith("--mem-fraction"))
        usable = answer.question.memory - answer.parts["CUDA context"]
        kept = sum(size for part, size in answer.parts.items() if part.startswith("reserve"))
        assert len(fraction) <= len("0.123")
        assert usable * (1 - float(fraction)) >= kept


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        (
            question("12B", 12, context=262_144, capability=(8, 9)),
            "KV in 8 bits, --gemma4-allow kv8 (",
        ),
        (
            question("12B", 12, context=262_144, capability=(8, 6)),
            "KV in 8 bits, --gemma4-allow kv8 (",
        ),
        (
            question("12B", 12, context=262_144, capability=(8, 6), own_attention=False),
            "a shorter --context-length (",
        ),
        (question("26B-A4B", 24, context=262_144, at_once=4), "--for-requests 1 ("),
        (
            question("26B-A4B", 16, at_once=4, context=262_144, requests=4),
            "a shorter --context-length (",
        ),
        (question("12B", 12, mem_fraction=0.5), "no --mem-fraction-static ("),
        (question("31B", 24, "bf16"), "the model's NVFP4 checkpoint ("),
        (question("31B", 19, "bf16"), "--tp 4 ("),
        (question("31B", 4, "bf16"), "a GPU with more memory"),
        (question("12B", 24, context=65_536, ours=False), "this extension, without --stock ("),
        (question("26B-A4B", 48, ours=False), "this extension, without --stock ("),
    ],
)
def test_the_nearest_is_the_smallest_step_that_fits(asked, nearest):
    answer = search.fit(asked)
    assert not answer.fits
    assert answer.nearest.startswith(nearest), answer.nearest


def test_towers_are_counted_on_every_gpu():
    held = Weights({"mlp": 40 * GIB, "towers": 3 * GIB}, "by hand")
    split = advice._parallel(Question(BUILT_IN["31B"], held, 24 * GIB), 4)
    assert split.tp == 4
    assert split.weights.parts == {"mlp": 10 * GIB, "towers": 3 * GIB}


def test_too_few_requests_and_too_short_a_context_are_reported():
    several = search.fit(question("26B-A4B", 24, context=262_144, at_once=4))
    assert several.reason == "1 of 4 requests of 262144 tokens fit at once"
    long = search.fit(question("26B-A4B", 18, context=262_144))
    assert f"the KV pools hold {long.longest + NEW_TOKENS} tokens, too few" in long.reason


@pytest.mark.parametrize("ours", [True, False])
def test_stock_pools_hold_rows_for_layers_that_share_kv(ours):
    answer = planner.make(question("E4B", 24, ours=ours))
    assert answer.kv == pools.kv_bytes(BUILT_IN["E4B"], shared_layers_too=not ours)


@pytest.mark.parametrize("drafting", [False, True])
def test_the_text_has_the_plans_numbers(drafting):
    asked = question("12B", 24)
    answer = planner.make(replace(asked, draft=Draft("/a draft", GIB, 4, 4)) if drafting else asked)
    lines = report.to_text(answer.question, answer).splitlines()
    assert lines[0] == "Gemma 4 12B (estimated, nvfp4) on 24.0 GiB, sglang-gemma4-ext"
    assert lines[2] == f"Yes: {answer.reason}."
    full, sliding = f"{answer.pools.full:,}", f"{answer.pools.swa:,}"
    kv = f"KV: one buffer, up to {full} tokens of full attention"
    if drafting:
        kv = f"KV: {full} tokens of full attention, {sliding} of sliding windows"
        kv += f" (ratio {answer.ratio:g})"
    assert kv in lines
    assert f"Longest request: {answer.longest_request:,} tokens" in lines
    rows = [line.split() for line in lines if " + 1,024 tokens" in line]
    assert [(row[0], row[-1]) for row in rows] == [
        (f"{prompt:,}", f"{count:,}") for (prompt, _), count in answer.concurrent.items()
    ]
    for part, size in answer.parts.items():
        assert any(f"  {part} " in line and f"{size / GIB:.2f} GiB" in line for line in lines)
    assert lines[-len(answer.flags) :] == [f"  {flag}" for flag in answer.flags]


def test_a_draft_and_a_page_size_are_passed_on():
    answer = planner.make(question("12B", 48, page=64, draft=Draft("/a draft", GIB, 4, 3)))
    assert "--page-size 64" in answer.flags
    assert "--speculative-draft-model-path '/a draft'" in answer.flags
    assert "--speculative-num-draft-tokens 3" in answer.flags


@pytest.mark.parametrize(("asked", "cap"), [({"requests": 1}, 1), ({"requests": 2}, 2)])
def test_no_more_requests_are_counted_than_the_cap(asked, cap):
    answer = planner.make(question("12B", 24, **asked))
    assert max(answer.concurrent.values()) == answer.load.requests == cap


def test_the_longest_request_is_within_the_context():
    asked = planner.make(question("12B", 24, context=32_768))
    assert asked.longest_request == 32_768
    assert "Longest request: 32,768 tokens" in report.to_text(asked.question, asked)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    ("capability", "runs"), [((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)]
)
def test_an_e4m3_cache_is_planned_only_where_it_runs(capability, runs, ours):
    """Our attention reads one from 8.0 on, SGLang's from 8.9."""
    asked = question("12B", 24, kv_dtype="fp8_e4m3", capability=capability, ours=ours)
    if runs or ours:
        assert planner.make(asked).kv.full == 8192
    else:
        with pytest.raises(PlanError, match="fp8_e4m3 does not run on compute capability 8"):
            planner.make(asked)


@pytest.mark.parametrize(
    ("capability", "own_attention", "bytes_of_a_full_token", "flag"),
    [
        ((8, 6), True, 8192, None),
        ((8, 6), False, 16_384, "--kv-cache-dtype bfloat16"),
        ((8, 9), False, 8192, None),
        ((9, 0), True, 8192, None),
        (None, True, 8192, None),
        (None, False, 16_384, "--kv-cache-dtype bfloat16"),
    ],
)
def test_a_declared_cache_is_counted_as_it_is_served(
    capability, own_attention, bytes_of_a_full_token, flag
):
    """Count 8 full layers of one head of 512: keys and values at one byte are 8,192."""
    answer = search.fit(
        question("12B", 24, fp8_kv=True, capability=capability, own_attention=own_attention)
    )
    assert answer.kv.full == bytes_of_a_full_token
    assert [f for f in answer.flags if "kv-cache" in f] == ([flag] if flag else [])
    assert (planner.NO_FP8_KV in answer.notes) == (flag is not None)
    assert not any("kv8" in option.name for option in options.find(answer.question, answer))


@pytest.mark.parametrize(("capability", "starts"), [((8, 6), False), ((8, 9), True)])
def test_stock_does_not_start_with_a_declared_cache_that_does_not_compile(capability, starts):
    answer = planner.make(question("12B", 24, fp8_kv=True, capability=capability, ours=False))
    assert answer.fits == starts
    if not starts:
        assert answer.reason == planner.STOCK_FP8_KV
        assert answer.nearest.startswith("this extension, without --stock (")


@pytest.mark.parametrize("card", sorted(CARDS))
@pytest.mark.parametrize("model", sorted(BUILT_IN))
def test_no_advice_names_a_cache_that_does_not_run(model, card):
    card = CARDS[card]
    gib = card.memory / GIB
    for fmt in ("bf16", "nvfp4"):
        asked = question(model, gib, fmt, context=131_072, requests=8, capability=card.capability)
        answer = search.fit(asked)
        said = f"{answer.nearest} {' '.join(answer.flags)}"
        assert "e4m3" not in said
        foreign = search.fit(replace(asked, own_attention=False))
        assert "kv8" not in foreign.nearest or card.capability >= (8, 9)


def test_unusual_parts_are_explained():
    asked = question("26B-A4B", 48, ours=False)
    text = report.to_text(asked, planner.make(asked))
    for part in ("reserve: unmodelled", "weights: swizzled scales"):
        assert f"  {part}: {report.LEGEND[part]}" in text.splitlines()
