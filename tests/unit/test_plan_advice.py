# SPDX-License-Identifier: Apache-2.0
"""What a plan says to pass, what comes nearest to one that fails, and the numbers in its text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sglang_gemma4_ext.plan import advice, planner, pools, report, weights
from sglang_gemma4_ext.plan.geometry import BUILT_IN
from sglang_gemma4_ext.plan.planner import Wish
from sglang_gemma4_ext.plan.sizes import GIB
from sglang_gemma4_ext.plan.weights import Weights


def wish(model: str, gib: float, fmt: str = "nvfp4", **more: Any) -> Wish:
    geometry = BUILT_IN[model]
    held = weights.estimate(geometry, fmt, more.get("tp", 1))
    return Wish(geometry, held, int(gib * GIB), **more)


@pytest.mark.parametrize(
    ("asked", "passed"),
    [
        ({"kv_dtype_bytes": 1}, "--kv-cache-dtype fp8_e4m3"),
        ({"tp": 2}, "--tp 2"),
        ({"swa_ratio": 0.25}, "--swa-full-tokens-ratio 0.25"),
        ({"policy": "seed"}, "--gemma4-swa-policy seed"),
        ({"requests": 3}, "--max-running-requests 3"),
        ({"chunk": 1024}, "--chunked-prefill-size 1024"),
        ({"context": 8192}, "--context-length 8192"),
        ({"mem_fraction": 0.7}, "--mem-fraction-static 0.7"),
        ({"low_memory": True}, "--gemma4-low-memory"),
        ({"low_memory": True, "requests": 3}, "--max-running-requests 3"),
        ({"low_memory": True, "chunk": 512}, "--chunked-prefill-size 512"),
    ],
)
def test_what_was_asked_for_is_passed_on(asked, passed):
    answer = planner.make(wish("12B", 48, **asked))
    assert answer.fits and passed in answer.flags
    plain = planner.make(wish("12B", 48))
    flag = passed.partition(" ")[0]
    defaults = ("--context-length", "--mem-fraction-static", "--chunked-prefill-size")
    assert passed not in plain.flags
    assert any(f.startswith(flag) for f in plain.flags) == (flag in defaults)


def test_the_fraction_that_is_passed_keeps_the_reserve():
    """SGLang reads three digits; rounded up, the pools would take of the reserve."""
    for gib in range(16, 97, 5):
        answer = planner.make(wish("12B", gib))
        (fraction,) = (f.split()[1] for f in answer.flags if f.startswith("--mem-fraction"))
        usable = answer.wish.memory - answer.parts["CUDA context"]
        kept = sum(size for part, size in answer.parts.items() if part.startswith("reserve"))
        assert len(fraction) <= len("0.123")
        assert usable * (1 - float(fraction)) >= kept


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        (wish("12B", 16, context=262_144), "--gemma4-low-memory (up to 262144 tokens"),
        (wish("12B", 13, context=262_144), "--gemma4-low-memory --kv-cache-dtype fp8_e4m3 ("),
        (
            wish("26B-A4B", 24, context=262_144, requests=4),
            "--gemma4-low-memory --max-running-requests 1 (",
        ),
        (wish("26B-A4B", 18, context=262_144), "--gemma4-low-memory and a shorter --context"),
        (wish("31B", 24, "bf16"), "--tp 4 ("),
        (wish("31B", 4, "bf16"), "a GPU with more memory"),
        (wish("26B-A4B", 18, context=262_144, ours=False), "--tp 8 ("),
    ],
)
def test_the_nearest_is_the_smallest_step_that_fits(asked, nearest):
    answer = planner.make(asked)
    assert not answer.fits
    assert answer.nearest.startswith(nearest), answer.nearest


def test_towers_are_on_every_gpu():
    held = Weights({"mlp": 40 * GIB, "towers": 3 * GIB}, "by hand")
    split = advice._parallel(Wish(BUILT_IN["31B"], held, 24 * GIB), 4)
    assert split.tp == 4
    assert split.weights.parts == {"mlp": 10 * GIB, "towers": 3 * GIB}


def test_too_few_requests_and_too_short_a_context_are_said():
    several = planner.make(wish("26B-A4B", 24, context=262_144, requests=4, low_memory=True))
    assert several.reason == "1 of 4 requests of 262144 tokens fit at once"
    long = planner.make(wish("26B-A4B", 18, context=262_144, low_memory=True))
    assert f"the KV pools hold {long.longest + planner.NEW_TOKENS} tokens, too few" in long.reason


@pytest.mark.parametrize("ours", [True, False])
def test_stock_pools_hold_rows_for_layers_that_share_kv(ours):
    answer = planner.make(wish("E4B", 24, ours=ours))
    assert answer.kv == pools.kv_bytes(BUILT_IN["E4B"], shared_layers_too=not ours)


@pytest.mark.parametrize("drafting", [False, True])
def test_the_text_has_the_plans_numbers(drafting):
    asked = wish("12B", 24)
    answer = planner.make(replace(asked, draft_bytes=GIB, draft_tokens=4) if drafting else asked)
    lines = report.to_text(answer).splitlines()
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
