# SPDX-License-Identifier: Apache-2.0
"""Choose tiles of SGLang's extend-attention kernels for Gemma 4's head dimensions.

A long prefill of few requests and a short verification of many need different tiles. The table,
`extend_tiles.json`, lists them by compute capability, in order of preference. `measured` is null or
the path of the raw results; while it is null a server keeps SGLang's tiles. The tiles of head
dimension 256 were the fastest on an H100 for the 26B-A4B in a public report. The others were chosen
by reading compiled code. `bench/kernels/extend_tiles.py` measures both.
"""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

TABLE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Tile:
    """Describe a launch configuration: queries and keys of a tile, warps and stages.

    head_dim: of queries, keys and values
    min_requests: the smallest batch that the tile is for
    shared_bytes: shared memory of the compiled kernel at 2-byte keys; a test compares it
    """

    head_dim: int
    min_requests: int
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    shared_bytes: int


@dataclass(frozen=True)
class Row:
    """Hold the tiles of one capability. measured: path of the raw results, or None."""

    measured: str | None
    tiles: tuple[Tile, ...]

    def choose(
        self, head_dim: int, requests: int, element_bytes: int, max_shared_bytes: int
    ) -> Tile | None:
        """Choose the first tile for this batch that fits the GPU; None keeps SGLang's.

        element_bytes: of the widest of queries, keys and values. max_shared_bytes: a block's limit.
        A tile that does not fit is passed over, with a line in the log the first time.
        """
        for tile in self.tiles:
            if tile.head_dim != head_dim or requests < tile.min_requests:
                continue
            needed = tile.shared_bytes * max(element_bytes, 2) // 2
            if needed <= max_shared_bytes:
                return tile
            _say_once(tile, needed, max_shared_bytes)
        return None


@functools.cache
def _say_once(tile: Tile, needed: int, limit: int) -> None:
    logger.warning(
        "extend attention: tile (%d, %d) with %d stages for head_dim %d is passed over: it needs "
        "%d bytes of shared memory and this GPU has %d",
        *(tile.block_m, tile.block_n, tile.num_stages, tile.head_dim, needed, limit),
    )


def read(path: Path = TABLE) -> dict[str, Row]:
    """Read the rows by capability, "sm_86"."""
    return {
        name: Row(row["measured"], tuple(Tile(**tile) for tile in row["tiles"]))
        for name, row in json.loads(path.read_text()).items()
    }


@functools.cache
def row_of(capability: tuple[int, int]) -> Row | None:
    """Look up the row of a compute capability; None if there is none."""
    return read().get("sm_{}{}".format(*capability))
