# SPDX-License-Identifier: Apache-2.0
"""Compare the reserve beside weights and KV with SGLang's; ours never exceeds it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.checkpoints.shapes import write_config
from sglang_gemma4_ext.patches.memory import memory_reserve
from sglang_gemma4_ext.plan import planner, reserve
from sglang_gemma4_ext.plan.activations import Step, activation_bytes
from sglang_gemma4_ext.plan.cards import CARDS
from sglang_gemma4_ext.plan.geometry import BUILT_IN, FULL, Geometry
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.sizes import GIB, MIB
from sglang_gemma4_ext.plan.weights import estimate
from tests.patches.hooks import hook_of

SIZES = sorted({card.mib for card in CARDS.values()})


@pytest.fixture
def resolved(monkeypatch, tmp_path):
    """resolved(mib, *flags, ours): server arguments after SGLang's memory step on this GPU."""
    from sglang.srt.arg_groups import memory_hook
    from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view
    from sglang.srt.model_executor.cuda_graph_config import Backend, CudaGraphConfig, PhaseConfig
    from sglang.srt.server_args import prepare_server_args

    folder = write_config(BUILT_IN["12B"], tmp_path)

    def run(mib: int, *flags: str, ours: bool = False, multimodal: bool = False):
        monkeypatch.setattr(memory_hook, "get_device_memory_capacity", lambda device: mib)
        args = prepare_server_args(["--model-path", str(folder), "--device", "cuda", *flags])
        graphs = CudaGraphConfig(
            decode=PhaseConfig(backend=Backend.FULL), prefill=PhaseConfig(backend=Backend.BREAKABLE)
        )
        declare_resolution(args, "test", cuda_graph_config=graphs, enable_multimodal=multimodal)
        step = memory_hook.handle_gpu_memory_settings
        settle = hook_of(memory_reserve.PATCH, "around", step.__name__)
        settle(step, args) if ours else step(args)
        return resolving_view(args)

    return run


@pytest.mark.parametrize("mib", SIZES)
def test_the_flat_reserve_equals_sglangs(resolved, mib):
    cfg = resolved(mib)
    load = reserve.default_load(mib * MIB, BUILT_IN["12B"])
    assert load.chunk == cfg.chunked_prefill_size
    assert load.graph_batch == cfg.cuda_graph_config.decode.max_bs
    fraction = 1 - reserve.flat(mib * MIB, load) / (mib * MIB)
    assert cfg.mem_fraction_static == round(fraction, 3)


def test_large_cards_keep_ten_gib_at_every_chunk(resolved):
    """Check cards of 60 GiB and more; a chunk of 2048 alone would leave 4 GiB."""
    mib = CARDS["a100"].mib
    cfg = resolved(mib, "--chunked-prefill-size", "2048")
    load = replace(reserve.default_load(mib * MIB, BUILT_IN["12B"]), chunk=2048)
    assert reserve.flat(mib * MIB, load) == 10 * GIB
    assert cfg.mem_fraction_static == round(1 - 10 * 1024 / mib, 3)


@pytest.mark.parametrize("mib", SIZES)
def test_the_patch_never_reserves_more(resolved, mib):
    stock, ours = resolved(mib), resolved(mib, ours=True)
    assert ours.mem_fraction_static >= stock.mem_fraction_static
    geometry = BUILT_IN["12B"]
    kept = reserve.reserve(mib * MIB, geometry, reserve.default_load(mib * MIB, geometry))
    # SGLang rounds its own fraction to three digits.
    assert 1 - ours.mem_fraction_static >= kept / (mib * MIB) - 0.0005


@pytest.mark.parametrize("flags", [(), ("--max-running-requests", "8")])
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("mib", SIZES)
def test_plan_and_server_settle_the_same_fraction(resolved, mib, ours, flags):
    geometry = BUILT_IN["12B"]
    asked = Question(
        geometry, estimate(geometry, "bf16"), mib * MIB, ours=ours, requests=8 if flags else None
    )
    plan = planner.make(asked)
    assert plan.fraction == resolved(mib, *flags, ours=ours).mem_fraction_static
    assert plan.reserve == reserve.kept_by(mib * MIB, plan.fraction)


def test_24_gb_cards_gain_gigabytes(resolved):
    mib = CARDS["rtx4090"].mib
    gained = resolved(mib, ours=True).mem_fraction_static - resolved(mib).mem_fraction_static
    assert gained * mib > 2048


@pytest.mark.parametrize(
    "flags",
    [
        ("--mem-fraction-static", "0.5"),
        ("--chunked-prefill-size", "-1"),
        ("--disaggregation-mode", "decode"),
    ],
)
def test_values_set_by_the_user_or_another_mode_stay(resolved, flags):
    mib = CARDS["a10g"].mib
    ours, stock = resolved(mib, *flags, ours=True), resolved(mib, *flags)
    assert ours.mem_fraction_static == stock.mem_fraction_static


def test_vision_is_untouched(resolved):
    mib = CARDS["a10g"].mib
    ours, stock = resolved(mib, ours=True, multimodal=True), resolved(mib, multimodal=True)
    assert ours.mem_fraction_static == stock.mem_fraction_static


def test_the_swa_scoped_reserve_by_hand():
    """Reserve 4 GiB and a chunk's activations at 24 GiB; at 6 GiB the dense reserve is less."""
    geometry, load = BUILT_IN["12B"], reserve.Load(4096, 48, 262_144)
    chunk = activation_bytes(geometry, Step(4096, 48))
    assert reserve.swa_scoped(24 * GIB, geometry, load) == 4 * GIB + chunk
    assert reserve.swa_scoped(9 * GIB, geometry, load) == 2 * GIB + chunk
    assert reserve.swa_scoped(6 * GIB, geometry, load) == 2 * GIB


def test_dense_kv_keeps_its_reserve():
    """Keep it where all layers are full: their KV can fill any budget."""
    dense = Geometry("dense", (FULL,) * 36, 4096, 12_288, 32, 8, 8, 0, 40_960)
    load = reserve.Load(4096, 48, 40_960)
    for memory in (4 * GIB, 12 * GIB, 96 * GIB):
        assert reserve.swa_scoped(memory, dense, load) == max(memory // 3, 2 * GIB)


@given(st.sampled_from(sorted(BUILT_IN)), st.integers(6 * GIB, 192 * GIB),
       st.integers(256, 16_384), st.integers(0, 512), st.integers(1, 8), st.booleans())  # fmt: skip
def test_minima_hold(model, memory, chunk, batch, drafts, low):
    load = reserve.Load(chunk, batch, 131_072, 64, drafts)
    geometry = BUILT_IN[model]
    kept = reserve.reserve(memory, geometry, load, tight=low)
    assert kept <= reserve.flat(memory, load)
    assert reserve.swa_scoped(memory, geometry, load) <= reserve.dense_kv_reserve(memory)
    assert kept >= min(reserve.flat(memory, load), reserve.working(geometry, load))


@given(st.sampled_from(sorted(BUILT_IN)), st.integers(64, 8192), st.integers(64, 8192))
def test_more_tokens_never_need_less(model, one, other):
    less, more = (activation_bytes(BUILT_IN[model], Step(n, 8)) for n in sorted((one, other)))
    assert less <= more
