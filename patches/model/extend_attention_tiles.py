# SPDX-License-Identifier: Apache-2.0
"""Choose the tiles of extend attention from a measured table, by head dimension and batch.

SGLang asks one function for block sizes, by head dimension alone, and launches with one stage.
During a call with one of our tiles, that function returns the tile, and the launch gets its number
of stages. Everything else stays SGLang's, including other head dimensions.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels.extend_tiles import Tile, row_of
from sglang_gemma4_ext.registry import Hook, Patch, Source

EXTEND = "sglang.kernels.ops.attention.extend_attention"
BLOCK_SIZES = f"{EXTEND}._get_block_sizes_for_extend_attention"
KERNELS = ("_fwd_kernel", "_fwd_kernel_unified")

_tile: Tile | None = None


class _Staged:
    """Wrap a Triton kernel so that its launches have this many stages."""

    def __init__(self, kernel: Any, num_stages: int):
        self._kernel = kernel
        self._num_stages = num_stages

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        launch = self._kernel[grid]
        return lambda *args, **kwargs: launch(*args, **{**kwargs, "num_stages": self._num_stages})


@contextlib.contextmanager
def using(tile: Tile) -> Iterator[None]:
    """Run extend attention of this process with this tile inside; not from two threads."""
    global _tile
    from sglang.kernels.ops.attention import extend_attention

    kernels = {name: getattr(extend_attention, name) for name in KERNELS}
    _tile = tile
    for name, kernel in kernels.items():
        setattr(extend_attention, name, _Staged(kernel, tile.num_stages))
    try:
        yield
    finally:
        _tile = None
        for name, kernel in kernels.items():
            setattr(extend_attention, name, kernel)


def _block_sizes(original: Callable[..., tuple], Lq: int, Lv: int) -> tuple:
    """AROUND: (BLOCK_DMODEL, BLOCK_DPE, BLOCK_DV, BLOCK_M, BLOCK_N, num_warps)."""
    stock = original(Lq, Lv)
    if _tile is None:
        return stock
    return (*stock[:3], _tile.block_m, _tile.block_n, _tile.num_warps)


def _extend(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """AROUND extend_attention_fwd and extend_attention_fwd_unified."""
    if _tile is not None:
        return original(*args, **kwargs)
    given = _signature(original).bind(*args, **kwargs).arguments
    q = given.get("q_extend", given.get("q"))
    tile = _choose(q, given["k_buffer"], given["v_buffer"], given["qo_indptr"].shape[0] - 1)
    if tile is None:
        return original(*args, **kwargs)
    with using(tile):
        return original(*args, **kwargs)


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _choose(
    q: torch.Tensor, k_buffer: torch.Tensor, v_buffer: torch.Tensor, requests: int
) -> Tile | None:
    head_dim = q.shape[-1]
    if v_buffer.shape[-1] != head_dim or q.device.type != "cuda":
        return None
    capability, max_shared_bytes = _device(q.device)
    row = row_of(capability)
    if row is None or row.measured is None:
        return None
    element_bytes = max(q.element_size(), k_buffer.element_size(), v_buffer.element_size())
    return row.choose(head_dim, requests, element_bytes, max_shared_bytes)


@functools.cache
def _device(device: torch.device) -> tuple[tuple[int, int], int]:
    """Return compute capability, and the bytes of shared memory that a block may opt in to."""
    properties = torch.cuda.get_device_properties(device)
    return (properties.major, properties.minor), properties.shared_memory_per_block_optin


def _stands_down(ctx: Context) -> str | None:
    row = row_of(ctx.gpu.capability) if ctx.gpu.is_target else None
    if row is None:
        return "for NVIDIA GPUs of compute capability 8.0, 8.6, 8.9 and 9.0"
    return None if row.measured else "its tiles were not measured on such a GPU yet"


def _retired() -> bool:
    from sglang.kernels.ops.attention import extend_attention

    found = inspect.unwrap(extend_attention._get_block_sizes_for_extend_attention)
    return "batch_size" in inspect.signature(found).parameters


PATCH = Patch(
    name="extend_attention_tiles",
    theme="model",
    summary="Extend attention: tiles by head dimension and batch, from a measured table",
    why="_get_block_sizes_for_extend_attention knows no batch, and the launch has one stage always",
    upstream="sgl-project/sglang#26588 changed Hopper's tile for head_dim 256",
    retire_when="_get_block_sizes_for_extend_attention takes the batch size",
    retired=_retired,
    hooks=(
        Hook(BLOCK_SIZES, "4b4586fff41f", "around", _block_sizes),
        Hook(f"{EXTEND}.extend_attention_fwd", "b0cc63493292", "around", _extend),
        Hook(f"{EXTEND}.extend_attention_fwd_unified", "fb849a9f17ab", "around", _extend),
    ),
    relies_on=(
        Source(f"{EXTEND}._fwd_kernel.fn", "08191623ea9e"),
        Source(f"{EXTEND}._fwd_kernel_unified.fn", "6c6bf56cd68d"),
    ),
    stands_down=_stands_down,
    required=False,
)
