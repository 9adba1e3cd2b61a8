# SPDX-License-Identifier: Apache-2.0
"""Check the unified pool on a CPU: the platform's refusal and CUDA events."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
from sglang.srt.mem_cache.allocator.unified_sub_pool import MultiEndedAllocator
from sglang.srt.platforms.interface import reject_out_of_tree_path

from sglang_gemma4_ext.patches.cpu import cpu_unified_memory
from tests.patches.hooks import hook_of

hook = functools.partial(hook_of, cpu_unified_memory.PATCH, "around")


def test_only_the_unified_pool_is_allowed():
    platform = SimpleNamespace(is_out_of_tree=lambda: True, device_name="cpu")
    reject = functools.partial(hook("reject_out_of_tree_path"), reject_out_of_tree_path, platform)
    reject(subsystem="the unified memory pool")
    with pytest.raises(NotImplementedError, match="reached the paged pool"):
        reject(subsystem="the paged pool")


def test_no_forward_is_reported_in_flight():
    allocator = SimpleNamespace(lazy_compaction=True)
    done = hook("set_latest_forward_done_event")
    done(MultiEndedAllocator.set_latest_forward_done_event, allocator, object())
    assert allocator._latest_forward_done_event is None
    written = SimpleNamespace(numel=lambda: 3)
    in_flight = hook("set_inflight_forward")
    in_flight(MultiEndedAllocator.set_inflight_forward, allocator, object(), written)
    assert allocator._inflight_forward is None
