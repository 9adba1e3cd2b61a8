# SPDX-License-Identifier: Apache-2.0
"""Time a call under CUDA graphs with a cold L2: weights rotate through more memory than the L2.

A graph has a call for each copy of the weights; a replay's time over their number is a sample.
Without a GPU a call runs once and has no time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

REPLAYS = 30
L2_TIMES = 3


@dataclass(frozen=True)
class Time:
    """Hold the microseconds of a call: the median of the replays, the 20th and 80th percentile."""

    median_us: float
    p20_us: float
    p80_us: float


def copies_for(weight_bytes: int) -> int:
    """Return how many copies of a weight exceed the L2."""
    if not torch.cuda.is_available():
        return 1
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, math.ceil(L2_TIMES * cache / weight_bytes))


def measure(calls: Sequence[Callable[[], torch.Tensor]]) -> Time | None:
    """Time calls, each on its own copy of the weights. Returns None without a GPU."""
    for call in calls:
        call()
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]
    samples = [_replay_us(graph) / len(calls) for _ in range(REPLAYS + 3)][3:]
    del kept
    cuts = statistics.quantiles(samples, n=5)
    return Time(statistics.median(samples), cuts[0], cuts[-1])


def _replay_us(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000


def copy_gb_s() -> float | None:
    """Measure the bandwidth of a copy of 1 GiB, bytes read and written; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    time = measure([lambda: target.copy_(source)])
    return 2 * source.numel() / time.median_us / 1000
