# SPDX-License-Identifier: Apache-2.0
"""Choose the launch configuration of an NVFP4 kernel by op, M, N, K and GPU.

The configurations are data in `nvfp4_configs/`. A file belongs to a device (`NVIDIA_H200.json`,
measured on it) or to a compute capability (`sm_90.json`, chosen by reading compiled code, not
measured):

    {"measured": null or where the raw results are, "bytes_a_us": ...,
     "faster": [["linear" or "experts", n, k], ...],
     "configs": [{"op": ..., "max_m": ..., "n": ..., "k": ..., "block_m": ..., ...}, ...]}

`faster` lists the shapes at which our kernels are faster than SGLang's Marlin: a linear's, or an
expert's w13. Marlin needs another layout of the weights, so a layer uses one of them for every M,
chosen when it loads.

Linears of INT4 and FP8 have their own op, "packed", whose splits are not used. Experts of all
formats share configs.

"splits" is a number, or "fill": K is split so that each multiprocessor has FILL_WARPS warps and
the launch is short (`fill`). Such a config says how many of its blocks are "resident" on a
multiprocessor, and the file says how many bytes one reads in a microsecond.

The candidates are the op's configs of the smallest `max_m` that is at least M, else of the largest.
The one with the nearest (n, k) is chosen, by the sum of distances on a logarithmic scale.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

logger = logging.getLogger(__name__)

Op = Literal["linear", "packed", "experts_up", "experts_down", "grouped"]
Layer = Literal["linear", "experts"]
FOLDER = Path(__file__).parent / "nvfp4_configs"
CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0))
# The capability whose table serves tensors on the CPU, in Triton's interpreter or the emulator.
INTERPRETED = (9, 0)
# Warps on each multiprocessor that "fill" asks for, and the most programs over K.
FILL_WARPS, MAX_SPLITS = 7, 8
# Microseconds by the model of bench/kernels/predict.py: of a tile at least, however few blocks run,
# and of the sum of parts.
LATENCY_US, ARRIVAL_US = 0.55, 0.7
# Bytes of parts that the last program reads in a microsecond.
PARTS_A_US = 100_000
# Multiprocessors for tensors on the CPU: an H100's.
PROCESSORS = 132


@dataclass(frozen=True)
class Config:
    """Hold a launch configuration.

    block_m, block_n, block_k: tokens, weight rows and in-features of a tile
    splits: programs over K. num_warps, num_stages: Triton's
    wgmma: Triton uses wgmma for the tile: sm_90, at least 4 warps and 64 weight rows
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
    """Hold a config for an op; n and k are of the packed weight, gate and up stacked.

    resident: 0, or the config's splits follow from the GPU, which holds so many of its blocks on a
        multiprocessor
    """

    op: Op
    max_m: int
    n: int
    k: int
    config: Config
    resident: int = 0


@dataclass(frozen=True)
class Table:
    """Hold one file. measured: path of its raw results, or None. faster: (layer, n, k).

    bytes_a_us: what a multiprocessor reads in a microsecond if all read
    """

    name: str
    measured: str | None
    bytes_a_us: int
    faster: frozenset[tuple[Layer, int, int]]
    entries: tuple[Entry, ...]

    def largest_m(self, op: Op) -> int:
        """Return the most tokens for which the table has configs of `op`."""
        return max(entry.max_m for entry in self.entries if entry.op == op)

    def choose(self, op: Op, m: int, n: int, k: int, processors: int = PROCESSORS) -> Config:
        """Choose a config. Raises KeyError for an op without entries.

        processors: multiprocessors of the GPU
        """
        entries = [entry for entry in self.entries if entry.op == op]
        if not entries:
            raise KeyError(f"{self.name}.json has no configs for {op}")
        bounds = sorted({entry.max_m for entry in entries})
        bound = next((b for b in bounds if m <= b), bounds[-1])
        nearest = min(
            (entry for entry in entries if entry.max_m == bound),
            key=lambda entry: abs(math.log(entry.n / n)) + abs(math.log(entry.k / k)),
        )
        if nearest.resident == 0:
            return nearest.config
        return replace(nearest.config, splits=fill(nearest, m, n, k, processors, self.bytes_a_us))


def fill(entry: Entry, m: int, n: int, k: int, processors: int, bytes_a_us: int) -> int:
    """Return over how many programs K is split so that all multiprocessors have FILL_WARPS warps.

    Of the numbers that do, the one is taken with which the busiest multiprocessor is done first. If
    none does, it is the largest, at most `most_splits`.
    """
    config = entry.config
    tiles, most = math.ceil(k / config.block_k), most_splits(config, k)
    blocks = math.ceil(m / config.block_m) * math.ceil(n / config.block_n)
    wanted = math.ceil(FILL_WARPS * processors / (blocks * config.num_warps))
    # Tiles of K in a part: then no program is without one.
    each = range(math.ceil(tiles / most), tiles + 1)
    full = [a for a in each if math.ceil(tiles / a) >= wanted] or [each[0]]
    tile_us = config.block_n * config.block_k * 9 / 16 / bytes_a_us
    part_us = min(m, config.block_m) * config.block_n * 4 / PARTS_A_US

    def busy_us(a_part: int) -> tuple[float, int]:
        splits = math.ceil(tiles / a_part)
        waves, rest = divmod(math.ceil(blocks * splits / processors), entry.resident)
        a_tile = waves * max(entry.resident * tile_us, LATENCY_US)
        a_tile += max(rest * tile_us, LATENCY_US) if rest else 0.0
        return a_part * a_tile + (ARRIVAL_US + splits * part_us if splits > 1 else 0.0), splits

    return math.ceil(tiles / min(full, key=busy_us))


def most_splits(config: Config, k: int) -> int:
    """Return the most programs over K: MAX_SPLITS, or parts of at most twice the weights' bytes.

    Parts are fp32, written and read once: 8 bytes a token and row. A weight is 9/16 of a byte.
    """
    return max(1, min(MAX_SPLITS, 2 * 9 * k // (16 * 8 * config.block_m)))


def read(path: Path) -> Table:
    """Read a table. Raises ValueError if `faster` has a shape and `measured` is null."""
    content = json.loads(path.read_text())
    entries = tuple(_entry(**fields) for fields in content["configs"])
    faster = frozenset((layer, n, k) for layer, n, k in content["faster"])
    if faster and not content["measured"]:
        raise ValueError(f"{path.name} calls shapes faster and names no measurement")
    return Table(path.stem, content["measured"], content["bytes_a_us"], faster, entries)


def _entry(
    op: Op,
    max_m: int,
    n: int,
    k: int,
    splits: int | Literal["fill"] = 1,
    resident: int = 0,
    **config: Any,
) -> Entry:
    if splits == "fill":
        return Entry(op, max_m, n, k, Config(**config), resident)
    return Entry(op, max_m, n, k, Config(splits=splits, **config))


def table_for(name: str, capability: tuple[int, int], folder: Path = FOLDER) -> Table:
    """Read the table of a device, else of its compute capability, else of the nearest below.

    name: the driver's name of the device, "NVIDIA H200"
    """
    own = file_of(name, folder)
    if own.is_file():
        return read(own)
    known = [c for c in CAPABILITIES if c <= capability] or [CAPABILITIES[0]]
    return read(folder / f"sm_{known[-1][0]}{known[-1][1]}.json")


def file_of(name: str, folder: Path = FOLDER) -> Path:
    """Return the path of a device's own table, which need not exist."""
    return folder / f"{name.replace(' ', '_').replace('/', '_')}.json"


@functools.cache
def table_of(device: torch.device) -> Table:
    """Return the table of a device of this process; read it, and log a fallback, once."""
    if device.type != "cuda":
        return read(FOLDER / "sm_{}{}.json".format(*INTERPRETED))
    name = torch.cuda.get_device_name(device)
    table = table_for(name, torch.cuda.get_device_capability(device))
    if table.measured is None:
        logger.info("NVFP4 kernels: nothing measured on %s, configs of %s", name, table.name)
    return table


@functools.lru_cache(maxsize=4096)
def choose(op: Op, device: torch.device, m: int, n: int, k: int) -> Config:
    """Choose the config for m tokens and a packed weight of n rows and k in-features."""
    return table_of(device).choose(op, m, n, k, _processors(device))


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
