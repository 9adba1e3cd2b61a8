# SPDX-License-Identifier: Apache-2.0
"""Check the planner's answers to common questions against calculations by hand.

Weights: 9/16 byte each in NVFP4, 2 bytes in BF16. KV bytes per token: heads x head_dim x 2 (K and
V) x 2 bytes x layers. A tight plan reserves memory for activations, graphs, tables, TP and slack.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_gemma4_ext.plan import planner, pools, reserve, search, weights
from sglang_gemma4_ext.plan.answer import NEW_TOKENS, Plan
from sglang_gemma4_ext.plan.geometry import BUILT_IN, PlanError
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.sizes import GIB, MIB

CONTEXT = 512 * MIB


def plan(model: str, fmt: str, gib: int, **choices) -> Plan:
    geometry = BUILT_IN[model]
    held = weights.estimate(geometry, fmt, choices.get("tp", 1))
    return planner.make(Question(geometry, held, gib * GIB, **choices))


def kept(answer: Plan) -> int:
    return sum(size for part, size in answer.parts.items() if part.startswith("reserve"))


def ours(reserved: int, gib: int) -> int:
    """Give what our server keeps for that reserve: its fraction is rounded down to three digits."""
    usable = gib * GIB - CONTEXT
    return int(usable * (1 - (1000 - ceil(1000 * reserved / usable)) / 1000))


def sglangs(flat: int, gib: int) -> int:
    """Give what stock SGLang keeps: its fraction of all memory is rounded to nearest."""
    return int((gib * GIB - CONTEXT) * (1 - round(1 - flat / (gib * GIB), 3)))


# Elements of one token at the widest moment of a prefill (activations.py): the residual with
# layer input and output (3 x hidden), and the widest of attention, MLP and experts.
ELEMENTS = {
    # Gate and up, the activated gate, the product (4 x 15,360), and the output.
    "12B": 3 * 3840 + 4 * 15_360 + 3840,
    "31B": 3 * 5376 + 4 * 21_504 + 5376,
    # Eight experts: gate and up (2 x 704) or later the output (2816), the product, and eight rows
    # of hidden size. The dense MLP is narrower.
    "26B-A4B": 3 * 2816 + 8 * (2816 + 704) + 8 * 2816,
    # The per-layer embeddings before the first layer: nine times 42 x 256.
    "E4B": 2560 + 9 * 42 * 256,
}


def tight_reserve(model: str, chunk: int, context: int, graph_batch: int = 16) -> int:
    """Work out the reserve of a tight plan for 16 requests."""
    geometry = BUILT_IN[model]
    # In BF16, plus 15 %. The logits of 16 rows, at 12 bytes a word, are smaller in all cases.
    computing = int(1.15 * (chunk * 2 * ELEMENTS[model]))
    # SGLang's prefill graphs: 8 MiB for each of 22, 30, 38, 42 or 50 buckets. Decode: 2 MiB a
    # request.
    graphs = ({256: 22, 512: 30, 1024: 38, 2048: 42, 4096: 50}[chunk] * 8 + graph_batch * 2) * MIB
    table = 4 * (16 + 1) * (context + 5)
    indices = 8 * graph_batch * (context + geometry.window)
    partial = 4 * graph_batch * geometry.heads * 8 * (256 + 512 + 1)
    rank, slack = 128 * MIB, 512 * MIB
    return computing + graphs + table + indices + partial + rank + slack


def test_12b_nvfp4_on_24_gb():
    """Fits: two whole contexts of 262,144 tokens."""
    answer = plan("12B", "nvfp4", 24, tight=True, chunk=2048, requests=16)
    # 40 sliding layers: q 4096, k and v 2048 each, o 4096 wide. 8 full layers: q and o 8192, k
    # = v 512.
    attention = 40 * 3840 * (4096 + 2 * 2048 + 4096) + 8 * 3840 * (8192 + 2 * 512 + 8192)
    mlp = 48 * 3 * 3840 * 15_360
    embeddings = 262_144 * 3840
    held = (attention + mlp) * 9 // 16 + embeddings * 2
    assert answer.question.weights.total == held == 8_153_333_760
    reserved = ours(tight_reserve("12B", 2048, 262_144), 24)
    assert kept(answer) == reserved
    assert answer.parts["kv"] == 24 * GIB - CONTEXT - held - reserved
    # A whole context: 262,145 full tokens of 16,384 bytes. Sliding tokens of 327,680 bytes:
    # 2 x 1024 + 129 + 1, and two chunks of 2048 in flight.
    one = 262_145 * 16_384 + (1024 + 1024 + 1 + 1) * 327_680
    flying = 2 * 2048 * 327_680
    assert answer.concurrent[(261_120, 1024)] == (answer.parts["kv"] - flying) // one == 2
    assert answer.longest == 261_120
    assert answer.fits


def test_26b_a4b_nvfp4_on_24_gb():
    """Fits at 262,144 tokens; stock SGLang keeps 1 GiB for KV, a fortieth of that context."""
    answer = plan("26B-A4B", "nvfp4", 24, tight=True, chunk=2048, requests=16)
    # 25 sliding layers: 8192 + 4096 wide. 5 full layers: q and o 8192, k = v 2 x 512.
    attention = 25 * 2816 * (4096 + 2 * 2048 + 4096) + 5 * 2816 * (8192 + 2 * 1024 + 8192)
    mlp, experts = 30 * 3 * 2816 * 2112, 30 * 128 * 3 * 2816 * 704
    bf16 = 262_144 * 2816 + 30 * 128 * 2816  # embeddings, routers
    held = (attention + mlp + experts) * 9 // 16 + bf16 * 2
    assert answer.question.weights.total == held == 15_278_061_568
    reserved = ours(tight_reserve("26B-A4B", 2048, 262_144), 24)
    assert answer.parts["kv"] == 24 * GIB - CONTEXT - held - reserved
    one = 262_145 * 20_480 + 2050 * 204_800
    flying = 2 * 2048 * 204_800
    assert answer.concurrent[(261_120, 1024)] == (answer.parts["kv"] - flying) // one == 1
    assert answer.fits

    stock = plan("26B-A4B", "nvfp4", 24, ours=False)
    # SGLang's flat reserve: 512 MiB + 1.5 MiB x 4096 + 128 MiB + 48 x 2 MiB + 50 buckets x 8 MiB.
    flat = sglangs((512 + 6144 + 128 + 96 + 400) * MIB, 24)
    assert kept(stock) == flat
    # ModelOpt's block scales a second time, one byte for 16 weights. w13: 1408 rows (11 x 128) of
    # 2816 / 16 = 176. w2: 2816 rows (22 x 128) of 704 / 16 = 44.
    swizzled = 30 * 128 * (1408 * 176 + 2816 * 44)
    assert stock.parts["weights: swizzled scales"] == swizzled == 1_427_374_080
    assert stock.parts["kv"] == 24 * GIB - CONTEXT - held - swizzled - flat
    assert 0.9 * GIB < stock.parts["kv"] < 1.0 * GIB
    # 184,320 bytes a token at 0.8.
    assert stock.kv_tokens == stock.parts["kv"] // 184_320 < 262_144 // 40


def test_stock_at_tp_2_swizzles_padded_blocks():
    """Each of two GPUs pads the 704 rows of w13 to 768 and the 22 columns of w2 to 24."""
    stock = plan("26B-A4B", "nvfp4-experts", 24, tp=2, ours=False)
    assert stock.parts["weights: swizzled scales"] == 30 * 128 * (768 * 176 + 2816 * 24)
    for fmt in ("fp8", "bf16"):
        assert "weights: swizzled scales" not in plan("26B-A4B", fmt, 80, ours=False).parts
    assert "weights: swizzled scales" not in plan("31B", "nvfp4", 80, ours=False).parts


def test_31b_nvfp4_on_32_gb_at_128k():
    """Fits only when fitted: prefill chunks of 512 tokens, one request at a time."""
    refused = plan("31B", "nvfp4", 32, context=131_072)
    assert not refused.fits

    answer = search.fit(replace(refused.question, requests=16))
    # 50 sliding layers: q and o 8192, k and v 4096. 10 full layers: q and o 16,384, k = v 2048.
    attention = 50 * 5376 * (8192 + 2 * 4096 + 8192) + 10 * 5376 * (16_384 + 2 * 2048 + 16_384)
    held = (attention + 60 * 3 * 5376 * 21_504) * 9 // 16 + 262_144 * 5376 * 2
    assert answer.question.weights.total == held == 19_354_288_128

    def left(chunk: int) -> int:
        reserved = ours(tight_reserve("31B", chunk, 131_072), 32)
        return 32 * GIB - CONTEXT - held - reserved

    one = 131_073 * 81_920 + 2050 * 819_200
    assert left(1024) < one + 2 * 1024 * 819_200
    assert left(512) >= one + 2 * 512 * 819_200
    assert answer.load.chunk == 512
    assert answer.parts["kv"] == left(512)
    assert answer.concurrent[(130_048, 1024)] == 1
    assert answer.fits


def test_31b_on_96_gb_at_262k_against_the_876k_tokens_of_vllm():
    """Fits in NVFP4: three whole contexts. Without sliding, 76 GiB would hold 997K full tokens.

    vLLM's 876K tokens of 81,920 bytes are 66.8 GiB, which is KV of full layers alone. Counted so,
    ours holds more. Stock holds 93K tokens, because each takes 737,280 bytes, nine times as much.
    """
    answer = plan("31B", "nvfp4", 96, context=262_144, tight=True, chunk=2048, requests=16)
    reserved = ours(tight_reserve("31B", 2048, 262_144), 96)
    left = 96 * GIB - CONTEXT - 19_354_288_128 - reserved
    assert answer.parts["kv"] == left
    assert answer.kv_tokens == left // 81_920 > 876_000
    one = 262_145 * 81_920 + 2050 * 819_200
    assert answer.concurrent[(261_120, 1024)] == (left - 2 * 2048 * 819_200) // one == 3

    careful = plan("31B", "nvfp4", 96, context=262_144)
    assert careful.kv_tokens == careful.parts["kv"] // 81_920
    assert 0.94 < careful.kv_tokens / 876_000 < 1

    stock = plan("31B", "nvfp4", 96, ours=False)
    # 512 + 1.5 x 8192 + 128 + 256 x 2 + 58 buckets x 8 MiB: above its minimum of 10 GiB.
    flat = sglangs((512 + 12_288 + 128 + 512 + 58 * 8) * MIB, 96)
    assert kept(stock) == flat
    assert stock.kv_tokens == (96 * GIB - CONTEXT - 19_354_288_128 - flat) // 737_280

    bf16 = plan("31B", "bf16", 96, context=262_144, tight=True, chunk=2048, requests=16)
    assert bf16.fits
    assert bf16.concurrent[(261_120, 1024)] == 1


def test_e4b_on_12_gb():
    """BF16 does not fit: its weights are 14 GiB. NVFP4 holds 89K tokens."""
    ple = 42 * 256 * (262_144 + 3 * 2560)
    # 35 sliding layers: q and o 2048, k and v 512. 7 full layers: q and o 4096, k and v 1024.
    attention = 35 * 2560 * (2048 + 2 * 512 + 2048) + 7 * 2560 * (4096 + 2 * 1024 + 4096)
    mlp = 42 * 3 * 2560 * 10_240
    embeddings = 262_144 * 2560
    refused = plan("E4B", "bf16", 12)
    assert (
        refused.question.weights.total == 2 * (ple + attention + mlp + embeddings) == 15_035_006_976
    )
    assert "the weights alone (14.0 GiB) do not fit 12.0 GiB" in refused.reason
    assert refused.nearest.startswith("per-layer embeddings in host memory, --gemma4-ple host")

    answer = plan("E4B", "nvfp4", 12, tight=True, chunk=2048, requests=16)
    held = (attention + mlp) * 9 // 16 + 2 * (ple + embeddings)
    assert answer.question.weights.total == held
    # The whole context fits at no chunk size; the longest that fits is found at chunk 2048.
    reserved = ours(tight_reserve("E4B", 2048, 131_072, graph_batch=8), 12)
    left = 12 * GIB - CONTEXT - held - reserved
    assert answer.parts["kv"] == left
    # Layers with KV of their own: 4 full x 4096 and 20 sliding x 2048 bytes. A request has n +
    # 1024 tokens.
    swa = (512 + 512 + 128 + 1 + 1 + 1) * 40_960 + 2 * 2048 * 40_960
    assert answer.longest == (left - swa) // 16_384 - 1024 - 1
    assert answer.fits


models = st.sampled_from(sorted(BUILT_IN))
formats = st.sampled_from(sorted(weights.FORMATS))
memories = st.integers(8 * GIB, 192 * GIB)


@given(models, formats, memories, st.sampled_from([1, 2, 4, 8]), st.booleans(), st.booleans())
def test_parts_add_up_to_the_memory_and_minima_hold(model, fmt, memory, tp, low, ours):
    geometry = BUILT_IN[model]
    held = weights.estimate(geometry, fmt, tp)
    question = Question(geometry, held, memory, tp, tight=low and ours, ours=ours)
    answer = planner.make(question)
    assert sum(answer.parts.values()) == memory
    assert all(size >= 0 for part, size in answer.parts.items() if part != "kv")
    assert kept(answer) <= reserve.kept_by(memory, reserve.sglang_fraction(memory, answer.load))
    if answer.fits:
        pool = answer.pools
        used = pool.shared_bytes or pool.full * answer.kv.full + pool.swa * answer.kv.swa
        assert 0 < used <= answer.parts["kv"]
        assert 0 < answer.longest + NEW_TOKENS <= geometry.max_context
    else:
        assert answer.reason
        assert answer.nearest


@given(models, memories, st.floats(0.3, 0.95), st.floats(0.05, 1.0), st.integers(1, 64),
       st.integers(256, 8192), st.booleans())  # fmt: skip
def test_a_users_flag_is_never_overridden(model, memory, fraction, ratio, requests, chunk, ours):
    geometry = BUILT_IN[model]
    held = weights.estimate(geometry, "nvfp4")
    answer = planner.make(
        Question(
            geometry,
            held,
            memory,
            requests=requests,
            chunk=chunk,
            mem_fraction=fraction,
            swa_ratio=ratio,
            ours=ours,
        )
    )
    assert (answer.ratio, answer.load.chunk, answer.load.requests) == (ratio, chunk, requests)
    assert kept(answer) == int((memory - CONTEXT) * (1 - fraction))
    assert answer.pools == pools.split(max(0, answer.parts["kv"]), answer.kv, ratio)


@given(models, memories, memories, st.booleans())
def test_more_memory_never_holds_less(model, one, other, low):
    """Compare within one of SGLang's size classes; its chunk jumps between classes."""
    geometry = BUILT_IN[model]
    held = weights.estimate(geometry, "nvfp4")
    less, more = (
        planner.make(Question(geometry, held, memory, chunk=2048, requests=16, tight=low))
        for memory in sorted((one, other))
    )
    if reserve.flat(less.question.memory, less.load) == reserve.flat(
        more.question.memory, more.load
    ):
        assert less.parts["kv"] <= more.parts["kv"]
        assert less.longest <= more.longest


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"context": 300_000}, "--context-length 300000 is above the 262144 tokens"),
        ({"tp": 3}, "--tp 3 must divide the model's 32 query heads"),
        ({"mem_fraction": 1.5}, "--mem-fraction-static must be between 0 and 1, not 1.5"),
        ({"swa_ratio": 0.0}, "--swa-full-tokens-ratio must be above 0 and at most 1"),
        ({"requests": 0}, "--max-running-requests must be at least 1, not 0"),
    ],
)
def test_contradictions_are_one_sentence(choices, message):
    base = Question(BUILT_IN["31B"], weights.estimate(BUILT_IN["31B"], "nvfp4"), 96 * GIB)
    with pytest.raises(PlanError, match=message):
        planner.make(replace(base, **choices))


def test_int4_is_estimated_with_a_scale_for_32_weights() -> None:
    int4 = weights.estimate(BUILT_IN["26B-A4B"], "int4")
    assert int4.parts == weights.estimate(BUILT_IN["26B-A4B"], "nvfp4").parts  # 4.5 bits, too
    assert int4.swizzled == 0 and not int4.nvfp4_experts
