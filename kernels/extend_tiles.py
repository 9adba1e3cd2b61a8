# SPDX-License-Identifier: Apache-2.0
"""Tiles of SGLang's extend-attention kernels for Gemma 4's head dimensions: data, per capability.

A long prefill of few requests and the short verification of many want different tiles. The table,
`extend_tiles.json`, lists them in order of preference; `measured` is null or the path of the raw
results behind it, and while it is null a server keeps SGLang's tiles. The rows of head dimension
256 are those that an H100 preferred for the 26B-A4B in a public report; the others were chosen by
reading compiled code. Both wait for `bench/kernels/extend_tiles.py`.
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
    """A launch: queries and keys of a tile, and Triton's own two.

    head_dim: of queries, keys and values alike.
    min_requests: in a batch of at least so many.
    shared_bytes: what the kernel takes at 2-byte keys, as compiled; a test holds it to that.
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
    """One capability's tiles, and where they were measured (None: nowhere)."""

    measured: str | None
    tiles: tuple[Tile, ...]

    def choose(
        self, head_dim: int, requests: int, element_bytes: int, max_shared_bytes: int
    ) -> Tile | None:
        """The first tile for this batch that fits the GPU; None leaves it to SGLang.

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
    """Rows by capability, "sm_86"."""
    return {
        name: Row(row["measured"], tuple(Tile(**tile) for tile in row["tiles"]))
        for name, row in json.loads(path.read_text()).items()
    }


@functools.cache
def row_of(capability: tuple[int, int]) -> Row | None:
    """The row of a compute capability, None where there is none."""
    return read().get("sm_{}{}".format(*capability))
