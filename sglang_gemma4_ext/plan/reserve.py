# SPDX-License-Identifier: Apache-2.0
"""Compute what a GPU keeps free of weights and KV, and compare it with SGLang's own reserve.

SGLang turns one reserve into `mem_fraction_static`, and gives the KV pools what weights leave of
that fraction. Its estimate (`flat`) is 512 MiB + 1.5 MiB for each token of a prefill chunk, for
every model, + graphs. Activations, graph capture, the request table and all unmodelled memory come
out of it.

Ours replaces that one number. Nothing is added to it, so nothing is counted twice:

- `working`: what this model computes with (activations.py), the same graph and per-device terms as
  `flat`, and what SGLang allocates after it has sized the pools.
- `swa_scoped`: an allowance of max(2 GiB, memory / 6) for unmodelled memory, + one chunk's
  activations. It is for models whose sliding KV saturates. Dense-KV models keep
  max(memory / 3, 2 GiB).
- The reserve is min(flat, max(working, swa_scoped)), and min(flat, working) of a tight plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sglang_gemma4_ext.plan.activations import Step, activation_bytes
from sglang_gemma4_ext.plan.geometry import SLIDING, Geometry
from sglang_gemma4_ext.plan.sizes import GIB, MIB

# Assumption: a CUDA context and its libraries take this before SGLang measures free memory.
CUDA_CONTEXT = 512 * MIB
# Allocator fragmentation, attention metadata, kernel workspaces.
RUNTIME_SLACK = 512 * MIB
# SGLang's defaults by memory of the GPU: below MiB, chunk, decode batch of CUDA graphs at TP < 4
# and
# from TP 4 on.
_DEFAULTS = (
    (20 * 1024, 2048, 8, 8),
    (35 * 1024, 4096, 48, 160),
    (60 * 1024, 4096, 32, 160),
    (90 * 1024, 8192, 256, 512),
    (160 * 1024, 8192, 256, 512),
    (float("inf"), 16_384, 512, 512),
)
MANY_RUNNING = 2048  # SGLang's max_running_requests without any other bound


@dataclass(frozen=True)
class Load:
    """Hold the settings of a server that affect the reserve.

    graph_batch: largest decode batch with a CUDA graph, 0 without graphs
    requests: rows of the request table; None is SGLang's own number
    """

    chunk: int
    graph_batch: int
    context: int
    requests: int | None = None
    draft_tokens: int = 1
    tp: int = 1
    prefill_graphs: bool = True


def default_load(memory: int, geometry: Geometry, tp: int = 1, requests: int | None = None) -> Load:
    """Return what SGLang chooses on this GPU without flags."""
    mib = memory / MIB
    _, chunk, batch, wide = next(row for row in _DEFAULTS if mib < row[0])
    batch = wide if tp >= 4 else batch
    if requests is not None:
        batch = min(batch, requests)
    return Load(chunk, batch, geometry.max_context, requests, tp=tp)


def graph_bytes(load: Load) -> int:
    """Return SGLang's reserve for CUDA graphs: 2 MiB a decode size, 8 MiB a prefill bucket."""
    prefill = len(_prefill_buckets(load.chunk)) if load.prefill_graphs else 0
    return (2 * load.graph_batch + 8 * prefill) * MIB


def flat(memory: int, load: Load) -> int:
    """Return SGLang 0.5.23's estimate for a server that is not a pure decode node."""
    reserve = (512 + 1.5 * max(load.chunk, 2048) + load.tp / 8 * 1024) * MIB + graph_bytes(load)
    return int(max(reserve, 10 * GIB) if memory > 60 * GIB else reserve)


def working(geometry: Geometry, load: Load) -> int:
    """Return the bytes that this model needs beside weights and KV."""
    step = Step(load.chunk, load.graph_batch, load.draft_tokens, load.tp)
    return (
        activation_bytes(geometry, step)
        + graph_bytes(load)
        + late_allocations(geometry, load)
        + load.tp * 128 * MIB
        + RUNTIME_SLACK
    )


def late_allocations(geometry: Geometry, load: Load) -> int:
    """Return the bytes that SGLang allocates after sizing the pools, out of the reserve.

    The request table is int32 [requests + 1, context + 4 + draft tokens]. The Triton backend's
    graph buffers are int64 key indices for a whole context per row, and for a window. Split decode
    has partial results, fp32 [rows, heads, 8 splits, head_dim] for both head dims.

    With MTP drafts a request has a row for each token to verify, and a mask of a byte for each of
    them and each key. The draft's own backend has such buffers for a row a request; its heads are
    fewer, and are counted as the target's.
    """
    requests = MANY_RUNNING if load.requests is None else load.requests
    table = 4 * (requests + 1) * (load.context + 4 + load.draft_tokens)
    verified = load.graph_batch * load.draft_tokens
    drafts = load.draft_tokens > 1
    mask = verified * (load.context + load.draft_tokens) if drafts else 0
    rows = verified + (load.graph_batch if drafts else 0)
    heads = geometry.heads // load.tp
    indices = 8 * rows * (load.context + geometry.window)
    partial = 4 * rows * heads * 8 * (geometry.head_dim + geometry.global_head_dim + 1)
    return table + indices + partial + mask


def dense_kv_reserve(memory: int) -> int:
    return max(memory // 3, 2 * GIB)


def swa_scoped(memory: int, geometry: Geometry, load: Load) -> int:
    """Return the allowance beside KV that saturates; the dense one if it does not."""
    dense = dense_kv_reserve(memory)
    if geometry.kv_layers(SLIDING) == 0:
        return dense
    chunk = activation_bytes(geometry, Step(load.chunk, load.graph_batch, load.draft_tokens,
                                            load.tp))  # fmt: skip
    return min(dense, max(2 * GIB, memory // 6) + chunk)


def reserve(memory: int, geometry: Geometry, load: Load, *, tight: bool = False) -> int:
    """Return the reserve, never above SGLang's."""
    needed = working(geometry, load)
    if not tight:
        needed = max(needed, swa_scoped(memory, geometry, load))
    return min(flat(memory, load), needed)


def fraction(memory: int, kept: int) -> float:
    """Return the mem_fraction_static that keeps a reserve free, rounded down to three digits.

    SGLang multiplies it by the free memory before loading: all but the CUDA context.
    """
    return math.floor((1 - kept / (memory - CUDA_CONTEXT)) * 1000) / 1000


def sglang_fraction(memory: int, load: Load) -> float:
    """Return mem_fraction_static as SGLang 0.5.23 chooses it, of all memory."""
    return round(1 - flat(memory, load) / memory, 3)


def best_fraction(memory: int, geometry: Geometry, load: Load, *, tight: bool = False) -> float:
    """Return mem_fraction_static under our reserve, never below SGLang's own."""
    ours = fraction(memory, reserve(memory, geometry, load, tight=tight))
    return max(ours, sglang_fraction(memory, load))


def kept_by(memory: int, mem_fraction: float) -> int:
    """Return the bytes that a server keeps free of weights and KV under a mem_fraction_static."""
    return int((memory - CUDA_CONTEXT) * (1 - mem_fraction))


def _prefill_buckets(chunk: int) -> list[int]:
    """List the token counts for which SGLang captures a prefill graph."""
    sizes = [
        *range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64),
        *range(1280, 4097, 256), *range(4608, chunk + 1, 512),
    ]  # fmt: skip
    return [size for size in sizes if size <= chunk]
