# SPDX-License-Identifier: Apache-2.0
"""Check which tile each batch gets on each GPU, and when SGLang's own tile stays."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels import extend_tiles
from sglang_gemma4_ext.kernels.extend_tiles import Row, Tile, read
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.model import extend_attention_tiles as patch
from tests.patches.hooks import hook_of

MAX_SHARED = {"sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448}

# Own rows, because the committed table changes with each measurement.
HOPPER = Row(
    None,
    (
        Tile(256, 8, 16, 64, 4, 2, 75_776),
        Tile(256, 1, 32, 64, 4, 2, 86_016),
        Tile(512, 8, 16, 32, 4, 2, 82_944),
        Tile(512, 1, 32, 64, 8, 2, 167_936),
    ),
)
AMPERE = Row(None, (*HOPPER.tiles[:2], Tile(256, 1, 32, 32, 4, 2, 51_200)))


@pytest.fixture(autouse=True)
def _forgotten():
    extend_tiles._say_once.cache_clear()


@pytest.mark.parametrize(
    ("dim", "requests", "expected"),
    [
        (256, 1, (32, 64, 4)),
        (256, 7, (32, 64, 4)),
        (256, 8, (16, 64, 4)),
        (256, 64, (16, 64, 4)),
        (512, 7, (32, 64, 8)),
        (512, 8, (16, 32, 4)),
    ],
)
def test_the_batch_chooses_the_tile(dim, requests, expected) -> None:
    tile = HOPPER.choose(dim, requests, 2, MAX_SHARED["sm_90"])
    assert (tile.block_m, tile.block_n, tile.num_warps, tile.num_stages) == (*expected, 2)


def test_the_committed_table_covers_both_head_dimensions_everywhere() -> None:
    """Hold until each is measured; a measurement may leave a regime to SGLang."""
    table = read()
    assert set(table) == set(MAX_SHARED)
    for name, row in table.items():
        if row.measured is None:
            for dim in (256, 512):
                for requests in (1, 8):
                    assert row.choose(dim, requests, 2, MAX_SHARED[name]), (name, dim, requests)


def test_a_tile_for_hopper_is_refused_on_a_part_with_99_kb(caplog) -> None:
    assert HOPPER.choose(512, 1, 2, MAX_SHARED["sm_90"]).block_n == 64
    with caplog.at_level(logging.WARNING):
        assert HOPPER.choose(512, 1, 2, MAX_SHARED["sm_86"]) is None
        assert HOPPER.choose(512, 1, 2, MAX_SHARED["sm_86"]) is None
    (line,) = caplog.messages
    assert "needs 167936 bytes of shared memory and this GPU has 101376" in line


def test_wider_elements_take_the_next_tile_that_fits(caplog) -> None:
    row = AMPERE
    assert row.choose(256, 1, 2, 90_000).block_n == 64
    assert row.choose(256, 1, 2, 60_000).block_n == 32
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert row.choose(256, 1, 4, MAX_SHARED["sm_86"]) is None
    assert len(caplog.messages) == 2
    # FP8 keys are narrower, but counted as 2 bytes.
    assert row.choose(256, 1, 1, 90_000) == row.choose(256, 1, 2, 90_000)


@pytest.mark.parametrize("dim", [64, 128, 192, 288, 576])
def test_other_head_dimensions_keep_sglangs_tile(dim) -> None:
    assert all(row.choose(dim, 1, 2, 10**6) is None for row in read().values())


@pytest.mark.parametrize("name", MAX_SHARED)
def test_every_tile_fits_its_gpu(name) -> None:
    assert all(tile.shared_bytes <= MAX_SHARED[name] for tile in read()[name].tiles)


def test_no_gpu_without_a_measurement_gets_a_tile(monkeypatch) -> None:
    """Check both gates: the patch stands down, and if applied it chooses nothing."""
    monkeypatch.setattr(patch, "_device", lambda device: ((9, 0), MAX_SHARED["sm_90"]))
    q = SimpleNamespace(
        shape=(1, 1, 256), device=SimpleNamespace(type="cuda"), element_size=lambda: 2
    )
    ctx = Context(gpu=Gpu("nvidia", "NVIDIA H100", (9, 0)))
    row = HOPPER
    monkeypatch.setattr(patch, "row_of", lambda capability: replace(row, measured=None))
    assert patch._choose(q, q, q, 8) is None
    assert "not measured" in patch.PATCH.stands_down(ctx)
    monkeypatch.setattr(patch, "row_of", lambda capability: replace(row, measured="a file"))
    assert patch._choose(q, q, q, 8).block_m == 16
    assert patch._choose(q, q, q, 1).block_m == 32
    assert patch.PATCH.stands_down(ctx) is None


@pytest.mark.parametrize(
    "gpu", [Gpu("none"), Gpu("amd", "MI300X"), Gpu("nvidia", "B200", (10, 0))], ids=str
)
def test_other_machines_keep_sglangs_tile(gpu) -> None:
    assert patch.PATCH.stands_down(Context(gpu=gpu))


def test_a_tile_is_restored_after_an_error() -> None:
    from sglang.kernels.ops.attention import extend_attention

    before = extend_attention._fwd_kernel

    def fail() -> None:
        with patch.using(HOPPER.tiles[0]):
            assert extend_attention._fwd_kernel is not before
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail()
    assert extend_attention._fwd_kernel is before
    block_sizes = hook_of(patch.PATCH, "around", "_get_block_sizes_for_extend_attention")
    assert block_sizes(lambda Lq, Lv: (Lq, 0, Lv, 64, 64, 8), 256, 256)[3:] == (64, 64, 8)


def test_the_hook_finds_arguments_by_position_and_by_name(monkeypatch) -> None:
    """Pass arguments to both of SGLang's functions by position or by name."""
    tile, hook = HOPPER.tiles[0], functools.partial(hook_of, patch.PATCH, "around")
    asked = []
    monkeypatch.setattr(patch, "_choose", lambda q, k, v, n: asked.append((q, k, v, n)) or tile)
    starts = torch.zeros(4)

    def fwd(q_extend, k_extend, v_extend, o_extend, k_buffer, v_buffer, qo_indptr):
        return patch._tile

    def unified(q, o, k_buffer, v_buffer, k_scale, v_scale, qo_indptr):
        return patch._tile

    assert hook("extend_attention_fwd")(fwd, "q", "k", "v", "o", "kb", "vb", starts) is tile
    assert (
        hook("extend_attention_fwd_unified")(
            unified, "q", "o", "kb", "vb", 1.0, 1.0, qo_indptr=starts
        )
        is tile
    )
    assert asked == [("q", "kb", "vb", 3)] * 2
    assert patch._tile is None
