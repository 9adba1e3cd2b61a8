# SPDX-License-Identifier: Apache-2.0
"""Give a CPU server a byte budget for KV memory, as a GPU has one, by a test's plugin of SGLang.

The CPU reference sizes its pools by tokens, so SGLang's arithmetic of bytes never runs there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.probes.plugins import environment_with

BUDGET = "TEST_KV_BYTES"
PROFILED = "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator._profile_available_bytes"


def installed(folder: Path, budget: int) -> dict[str, str]:
    """Return the environment in which a server has `budget` bytes for KV."""
    return {BUDGET: str(budget)} | environment_with(folder, __name__)


def activate() -> None:
    """Be the entry point `sglang.srt.plugins`."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(PROFILED, _budget, HookType.AROUND)


def _budget(original: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    from sglang.srt.runtime_context import get_context

    get_context().override("test", max_total_tokens=None)
    return int(os.environ[BUDGET])
