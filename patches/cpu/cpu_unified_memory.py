# SPDX-License-Identifier: Apache-2.0
"""Run `--enable-unified-memory` on the CPU reference, through Triton's interpreter.

SGLang refuses the unified pool on every out-of-tree platform, because it chooses the pool's classes
without asking the platform. On a CPU they are plain PyTorch buffers and Triton kernels, which the
interpreter runs. Tests compare that pool with transformers without a GPU.

A pool that runs out moves its contents. First it makes its CUDA stream wait for the forward in
flight. On a CPU no forward is in flight: it has ended before the scheduler asks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

REJECT = "sglang.srt.platforms.interface.reject_out_of_tree_path"
CONFIGURATOR = "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator"
ALLOCATOR = "sglang.srt.mem_cache.allocator.unified_sub_pool.MultiEndedAllocator"
UNIFIED = "the unified memory pool"


def _allow(original: Callable[..., None], platform: Any, *, subsystem: str) -> None:
    if not subsystem.startswith(UNIFIED):
        original(platform, subsystem=subsystem)


def _no_event(original: Callable[..., None], self: Any, event: Any) -> None:
    """AROUND set_latest_forward_done_event: record no event."""
    original(self, None)


def _no_writes(original: Callable[..., None], self: Any, event: Any, written: Any) -> None:
    """AROUND set_inflight_forward: record no forward."""
    original(self, event, None)


def _stands_down(ctx: Context) -> str | None:
    if not ctx.settings.cpu:
        return "a GPU is not an out-of-tree platform"
    return None if ctx.settings.cpu_attention == "triton" else "the unified pool needs Triton"


def _retired() -> bool:
    from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator

    source = inspect.getsource(inspect.unwrap(KVCacheConfigurator._init_pools))
    return UNIFIED not in source


PATCH = Patch(
    name="cpu_unified_memory",
    theme="cpu",
    summary="CPU reference: the unified memory pool runs in Triton's interpreter",
    why="SGLang refuses --enable-unified-memory on every out-of-tree platform",
    upstream="unreported",
    retire_when="KVCacheConfigurator._init_pools no longer rejects out-of-tree platforms",
    retired=_retired,
    hooks=(
        Hook(REJECT, "5a2a236b0f95", "around", _allow),
        Hook(f"{ALLOCATOR}.set_latest_forward_done_event", "d4be11d334f2", "around", _no_event),
        Hook(f"{ALLOCATOR}.set_inflight_forward", "c86d05d5814a", "around", _no_writes),
    ),
    relies_on=(
        Source(f"{CONFIGURATOR}._init_unified_swa_pools", "f3ab0316e66f"),
        Source(f"{ALLOCATOR}._flush", "42cab1411088"),
    ),
    stands_down=_stands_down,
)
