# SPDX-License-Identifier: Apache-2.0
"""Which tile and split for which op, M, N, K and GPU: data in `nvfp4_configs/`, nothing tuned here.

A file is of a device (`NVIDIA_H200.json`, from measurements on it) or of a compute capability
(`sm_90.json`, chosen by reading compiled code: not measured). A file is

    {"measured": null or where the raw results are,
     "faster": [["linear" or "experts", n, k], ...],
     "configs": [{"op": ..., "max_m": ..., "n": ..., "k": ..., "block_m": ..., ...}, ...]}

`faster` are the shapes at which our kernels beat SGLang's Marlin there: a linear's, or an expert's
w13. Marlin wants another layout of the weights, so the choice is of a layer, for every M, when it
loads.

An op's configs of the smallest `max_m` that is at least M count (of the largest, beyond it); among
them the nearest (n, k), by the sum of their distances on a logarithmic scale.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

logger = logging.getLogger(__name__)

Op = Literal["linear", "experts_up", "experts_down", "grouped"]
Layer = Literal["linear", "experts"]
FOLDER = Path(__file__).parent / "nvfp4_configs"
CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0))
# Stands in for the GPU in the interpreter, where speed is of no interest.
INTERPRETED = (9, 0)


@dataclass(frozen=True)
class Config:
    """A launch: tokens, weight rows and in-features a tile, programs over K, and Triton's own.

    wgmma: the tile's dots become Hopper's (sm_90, 4 warps or more, 64 weight rows or more).
    """

    block_m: int
    block_n: int
    block_k: int
    splits: int = 1
    num_warps: int = 4
    num_stages: int = 3
    wgmma: bool = False


@dataclass(frozen=True)
class Entry:
    """A config and what it is for; n and k are those of the packed weight, gate and up stacked."""

    op: Op
    max_m: int
    n: int
    k: int
    config: Config


@dataclass(frozen=True)
class Table:
    """One file. measured: where its raw results are, or None. faster: (layer, n, k) than Marlin."""

    name: str
    measured: str | None
    faster: frozenset[tuple[Layer, int, int]]
    entries: tuple[Entry, ...]

    def largest_m(self, op: Op) -> int:
        """The most tokens that the table has configs of `op` for."""
        return max(entry.max_m for entry in self.entries if entry.op == op)

    def choose(self, op: Op, m: int, n: int, k: int) -> Config:
        """Raises KeyError for an op without entries."""
        entries = [entry for entry in self.entries if entry.op == op]
        if not entries:
            raise KeyError(f"{self.name}.json has no configs for {op}")
        bounds = sorted({entry.max_m for entry in entries})
        bound = next((b for b in bounds if m <= b), bounds[-1])
        nearest = min(
            (entry for entry in entries if entry.max_m == bound),
            key=lambda entry: abs(math.log(entry.n / n)) + abs(math.log(entry.k / k)),
        )
        return nearest.config


def read(path: Path) -> Table:
    """A table from its file. Raises ValueError on a shape called faster without a measurement."""
    content = json.loads(path.read_text())
    entries = tuple(_entry(**fields) for fields in content["configs"])
    faster = frozenset((layer, n, k) for layer, n, k in content["faster"])
    if faster and not content["measured"]:
        raise ValueError(f"{path.name} calls shapes faster and names no measurement")
    return Table(path.stem, content["measured"], faster, entries)


def _entry(op: Op, max_m: int, n: int, k: int, **config: Any) -> Entry:
    return Entry(op, max_m, n, k, Config(**config))


def table_for(name: str, capability: tuple[int, int], folder: Path = FOLDER) -> Table:
    """The device's own table, else its compute capability's, else the nearest one below.

    name: as the driver says it, "NVIDIA H200".
    """
    own = file_of(name, folder)
    if own.is_file():
        return read(own)
    known = [c for c in CAPABILITIES if c <= capability] or [CAPABILITIES[0]]
    return read(folder / f"sm_{known[-1][0]}{known[-1][1]}.json")


def file_of(name: str, folder: Path = FOLDER) -> Path:
    """Where a device's own table is, or would be."""
    return folder / f"{name.replace(' ', '_').replace('/', '_')}.json"


@functools.cache
def table_of(device: torch.device) -> Table:
    """The table of a device of this process; it is read, and a fallback logged, once."""
    if device.type != "cuda":
        return read(FOLDER / "sm_{}{}.json".format(*INTERPRETED))
    name = torch.cuda.get_device_name(device)
    table = table_for(name, torch.cuda.get_device_capability(device))
    if table.measured is None:
        logger.info("NVFP4 kernels: nothing measured on %s, configs of %s", name, table.name)
    return table


@functools.lru_cache(maxsize=4096)
def choose(op: Op, device: torch.device, m: int, n: int, k: int) -> Config:
    """The config for a shape: rows n and in-features k of the packed weight, m tokens."""
    return table_of(device).choose(op, m, n, k)
