# SPDX-License-Identifier: Apache-2.0
"""Compile SGLang's extend-attention kernel with every tile of the table, for the tile's GPU."""

from __future__ import annotations

import pytest

from bench.kernels.cross_compile import MAX_SHARED_BYTES, Compiled, compile_all
from bench.kernels.extend_job import job
from sglang_gemma4_ext.kernels.extend_tiles import Tile, read

# A kernel of 255 registers that spills more lives in local memory; a benchmark must then decide.
MAX_LOCAL_BYTES = 64


def _grid(capabilities: tuple[int, ...]) -> tuple[tuple[int, Tile], ...]:
    return tuple((c, tile) for c in capabilities for tile in read()[f"sm_{c}"].tiles)


def _assert_as_the_table_says(capability: int, tile: Tile, code: Compiled) -> None:
    assert code.error is None
    assert code.shared_bytes == tile.shared_bytes <= MAX_SHARED_BYTES[capability]
    assert code.local_bytes <= MAX_LOCAL_BYTES


def _check(capabilities: tuple[int, ...], **options) -> list[Compiled]:
    return compile_all(job(capability, tile, **options) for capability, tile in _grid(capabilities))


@pytest.mark.parametrize(
    "capability", [86, *(pytest.param(c, marks=pytest.mark.slow) for c in (80, 89, 90))]
)
def test_shared_memory_equals_the_table(capability) -> None:
    for (_, tile), code in zip(_grid((capability,)), _check((capability,)), strict=True):
        _assert_as_the_table_says(capability, tile, code)


@pytest.mark.slow
@pytest.mark.parametrize("mask", [False, True])
def test_windows_and_masks_need_no_more_shared_memory(mask) -> None:
    """The table's bytes also bound the kernel with a window or a mask."""
    capabilities = (86, 90)
    for (_, tile), code in zip(
        _grid(capabilities), _check(capabilities, window=1023, mask=mask), strict=True
    ):
        assert code.error is None
        assert code.shared_bytes <= tile.shared_bytes
