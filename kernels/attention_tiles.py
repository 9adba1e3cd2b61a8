# SPDX-License-Identifier: Apache-2.0
"""Choose the tiles of the attention kernels by GPU, head dimension and dtype of the cache.

The table, `attention_tiles.json`, has a row for each compute capability. Its tiles were chosen by
reading compiled code: no spills, shared memory within the GPU's limit, and as many blocks on a
multiprocessor as that allows. `measured` is null until a GPU has measured them.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from sglang_gemma4_ext.kernels import nvfp4_dispatch

TABLE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class DecodeTile:
    """Hold keys of a tile, warps and stages of decode attention. head_dim: the largest it takes."""

    head_dim: int
    e4m3: bool
    block_n: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class ExtendTile:
    """Hold query rows and keys of a tile, warps and stages of extend attention.

    mask: the tile is for calls with a mask, which needs registers, or for those without
    max_rows: the most query rows of a request and key head that the tile is for, tokens times the
        heads of a group; None for any
    """

    head_dim: int
    e4m3: bool
    mask: bool
    max_rows: int | None
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Row:
    """Hold the tiles of one capability. measured: path of the raw results, or None."""

    measured: str | None
    decode: tuple[DecodeTile, ...]
    extend: tuple[ExtendTile, ...]


def read(path: Path = TABLE) -> dict[str, Row]:
    """Read the rows by capability, "sm_86"."""
    return {
        name: Row(
            row["measured"],
            tuple(DecodeTile(**tile) for tile in row["decode"]),
            tuple(ExtendTile(**tile) for tile in row["extend"]),
        )
        for name, row in json.loads(path.read_text()).items()
    }


@functools.cache
def _rows() -> dict[str, Row]:
    return read()


def row_for(capability: tuple[int, int]) -> Row:
    """Return the row of a capability, else of the nearest below, else the first."""
    known = [c for c in nvfp4_dispatch.CAPABILITIES if c <= capability]
    return _rows()["sm_{}{}".format(*(known or nvfp4_dispatch.CAPABILITIES)[-1 if known else 0])]


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _row_of(device: torch.device) -> Row:
    # Tensors on the CPU: the interpreter, or the emulated GPU.
    if device.type != "cuda":
        return row_for(nvfp4_dispatch.INTERPRETED)
    return row_for(_capability(device))


def choose_decode(device: torch.device, head_dim: int, e4m3: bool) -> DecodeTile:
    """Choose the tile of the smallest head dimension in the table that is at least head_dim."""
    return next(
        tile for tile in _row_of(device).decode if tile.head_dim >= head_dim and tile.e4m3 == e4m3
    )


def choose_extend(
    device: torch.device, head_dim: int, e4m3: bool, mask: bool, rows: int
) -> ExtendTile:
    """Choose the first tile for head_dim, the cache's dtype, a mask and so many query rows."""
    return next(
        tile
        for tile in _row_of(device).extend
        if tile.head_dim >= head_dim
        and (tile.e4m3, tile.mask) == (e4m3, mask)
        and (tile.max_rows is None or rows <= tile.max_rows)
    )
