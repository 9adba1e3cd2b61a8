# SPDX-License-Identifier: Apache-2.0
"""Count the weights that one GPU holds: what tensor parallelism splits, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sglang_gemma4_ext.checkpoint.files import read_headers
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.plan import __main__ as cli
from sglang_gemma4_ext.plan import advice, planner, search
from sglang_gemma4_ext.plan.geometry import BUILT_IN, from_config
from sglang_gemma4_ext.plan.padding import growth_of_experts
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.served import read
from sglang_gemma4_ext.plan.sizes import GIB
from sglang_gemma4_ext.plan.weights import estimate, from_headers

# E4B: 262,144 tokens x 42 layers x 256, in BF16.
TABLE = 262_144 * 42 * 256 * 2


@pytest.mark.parametrize("tied", [True, False])
def test_every_gpu_holds_whole_embeddings_and_a_share_of_the_rest(tied) -> None:
    """SGLang's scaled embedding is nn.Embedding, which is not sharded; a separate head is."""
    shape = replace(BUILT_IN["31B"], tied=tied)
    one, two, eight = (estimate(shape, "bf16", tp).parts for tp in (1, 2, 8))
    table = 262_144 * 5376 * 2
    assert one["embeddings"] == table * (1 if tied else 2)
    assert two["embeddings"] == (table if tied else table + table // 2)
    assert two["mlp"] == one["mlp"] // 2 and two["attention"] == one["attention"] // 2
    # On eight GPUs each of ten full layers has a KV head a GPU, where half of one is its share.
    # K and V of half a head are 512 rows of 5,376 in BF16.
    assert eight["attention"] == one["attention"] // 8 + 10 * 512 * 5376 * 2


@pytest.mark.parametrize("kind", ["dense", "moe", "e2b"])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_headers_and_geometry_agree(kind, tp, checkpoint) -> None:
    """Norms and scalars are in the headers alone; they are 1 % of the tiny models."""
    path = checkpoint(kind)
    geometry = from_config(read_model_info(str(path)))
    summed = from_headers(read_headers(path), geometry, tp).parts
    guessed = estimate(geometry, "bf16", tp).parts
    for part in ("embeddings", "ple", "mlp", "attention", "experts"):
        assert summed.get(part, 0) == pytest.approx(guessed.get(part, 0), rel=0.01), part


def test_the_advice_for_more_gpus_is_the_plan_for_them() -> None:
    for tied in (True, False):
        shape = replace(BUILT_IN["31B"], tied=tied)
        one = Question(shape, estimate(shape, "bf16"), 24 * GIB)
        four = advice._parallel(one, 4).weights.parts
        exact = estimate(shape, "bf16", 4).parts
        assert four["embeddings"] == exact["embeddings"] and four["mlp"] == exact["mlp"]


def _asked(ple: str) -> Question:
    subject = read("E4B", fmt="bf16", ple=ple)
    return Question(subject.geometry, subject.weights, 12 * GIB, capability=(8, 6), ple=ple)


def test_per_layer_embeddings_in_host_memory_make_room() -> None:
    """E4B in BF16 has 14 GiB of weights, of which 5.25 GiB are the table."""
    here, host = search.fit(_asked("gpu")), search.fit(_asked("host"))
    assert here.question.weights.total - host.question.weights.total == TABLE
    assert not here.fits and host.fits
    assert "--gemma4-ple host" in here.nearest
    assert "--gemma4-ple host" in advice.flags(host)


def test_the_command_line_offers_them(capsys) -> None:
    argv = ("--model-path", "E4B", "--weights", "bf16", "--memory", "17 GiB")
    assert cli.main(list(argv)) == 0
    assert "+ ple-host: " in capsys.readouterr().out
    assert cli.main([*argv, "--gemma4-ple", "host"]) == 0
    said = capsys.readouterr().out
    assert "--gemma4-ple host" in said and "+ ple-host" not in said
    assert cli.main([*argv, "--gemma4-ple", "host", "--stock"]) == 2
    assert "leave out --gemma4-* flags" in capsys.readouterr().err


def test_an_int8_head_halves_the_embedding(capsys) -> None:
    """31B: 262,144 x 5,376 in BF16, or a byte each and an fp32 scale a row."""
    subjects = {head: read("31B", fmt="nvfp4", head=head) for head in ("checkpoint", "int8")}
    held = {head: subject.weights.parts["embeddings"] for head, subject in subjects.items()}
    assert held == {"checkpoint": 262_144 * 5376 * 2, "int8": 262_144 * (5376 + 4)}
    argv = ("--model-path", "31B", "--weights", "nvfp4", "--gpu", "a10g")
    assert cli.main(list(argv)) == 0
    assert "+ head8: " in capsys.readouterr().out
    assert cli.main([*argv, "--gemma4-head", "int8"]) == 0
    said = capsys.readouterr().out
    assert "--gemma4-head int8" in said and "+ head8" not in said
    untied = replace(subjects["int8"].geometry, tied=False)
    assert estimate(untied, "bf16").with_int8_head(untied) == estimate(untied, "bf16")


def test_humming_pads_the_experts_of_a_hopper_and_of_a_cut_mixture():
    """Write the arithmetic out for the 26B-A4B: gate and up are 1408 x 2816, down is 2816 x 704.

    On Hopper 1408 rows become 1536. A quarter of an expert is 352 x 2816 and 2816 x 176, which
    become 384 x 2816 and 2816 x 192.
    """
    geometry = BUILT_IN["26B-A4B"]
    whole = 1408 * 2816 + 2816 * 704
    assert growth_of_experts(geometry, (8, 6)) == 0
    assert growth_of_experts(geometry, (9, 0)) == pytest.approx(128 * 2816 / whole)
    quarter = 352 * 2816 + 2816 * 176
    more = (32 * 2816 + 2816 * 16) / quarter
    assert growth_of_experts(geometry, (8, 0), tp=4) == pytest.approx(more)


@pytest.mark.parametrize("fmt", ["nvfp4", "int4", "bf16"])
def test_a_plan_counts_the_padding_of_experts(fmt):
    geometry, part = BUILT_IN["26B-A4B"], "weights: padding of experts"
    weights = estimate(geometry, fmt)
    for capability in ((8, 6), (9, 0)):
        plan = planner.make(Question(geometry, weights, 80 * GIB, capability=capability))
        padded = fmt != "bf16" and capability == (9, 0)
        growth = growth_of_experts(geometry, capability)
        assert plan.parts.get(part, 0) == (int(weights.parts["experts"] * growth) if padded else 0)
        assert (part in plan.parts) == padded
