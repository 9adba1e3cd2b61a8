# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's hierarchical cache on a CPU, as a test's plugin of SGLang.

Host pools are registered with CUDA, rows are copied by a CUDA operator, and copies run on side
streams. Here memory is memory, rows are copied by indexing, and a copy is done when it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tests.probes.plugins import environment_with

COMMON = "sglang.srt.mem_cache.pool_host.common"
# The other ways to copy are CUDA kernels of several layouts.
FLAGS = (
    "--enable-hierarchical-cache", "--hicache-io-backend", "direct",
    "--hicache-mem-layout", "layer_first", "--hicache-write-policy", "write_through",
    "--hicache-ratio", "2",
)  # fmt: skip


def installed(folder: Path) -> dict[str, str]:
    """Return the environment that a server with FLAGS needs."""
    return environment_with(folder, __name__)


def activate() -> None:
    """Be the entry point `sglang.srt.plugins`."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(f"{COMMON}._cuda_host_register", _nothing, HookType.REPLACE)
    HookRegistry.register(f"{COMMON}._cuda_host_unregister", _nothing, HookType.REPLACE)
    from sglang.srt.mem_cache.pool_host import mha

    mha.transfer_kv_direct = _copy
    torch.cpu.Stream, torch.cpu.Event = _Now, _Now
    torch.cpu.current_stream = torch.cpu.default_stream = lambda *_: _Now()


def _nothing(*args: object, **kwargs: object) -> None:
    """Do without CUDA."""


def _copy(
    src_layers: Sequence[torch.Tensor],
    dst_layers: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    page_size: int,
) -> None:
    """Copy the rows src_indices of each layer to dst_indices of the other pool."""
    for src, dst in zip(src_layers, dst_layers, strict=True):
        dst[dst_indices] = src[src_indices]


class _Now:
    """Be a stream or an event on which everything is done."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __enter__(self) -> _Now:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def query(self) -> bool:
        return True

    record = record_event = wait = wait_event = wait_stream = synchronize = _nothing
    elapsed_time = lambda self, other: 0.0  # noqa: E731
