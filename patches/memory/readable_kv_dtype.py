# SPDX-License-Identifier: Apache-2.0
"""Serve a declared FP8 KV cache in BF16 where SGLang's attention would read it and cannot.

The launcher does this before SGLang is imported, for local checkpoints. This patch covers hub names
and `sglang serve`, in the step of argument resolution that sizes the memory.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

from sglang_gemma4_ext import PREFIX
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.launcher import kv_dtype
from sglang_gemma4_ext.machine import detect_gpu
from sglang_gemma4_ext.plan.question import E4M3_SINCE
from sglang_gemma4_ext.registry import Hook, Patch, Source
from sglang_gemma4_ext.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

MEMORY = "sglang.srt.arg_groups.memory_hook"
CONFIGURE = "sglang.srt.mem_cache.kv_cache_dtype.configure_kv_cache_dtype"


def _settle(server_args: Any) -> None:
    """BEFORE handle_gpu_memory_settings. Exits if the user asked for a dtype that cannot run."""
    from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view

    cfg = resolving_view(server_args)
    model = read_model_info(cfg.model_path, cfg.revision)
    try:
        said = kv_dtype.warning(
            cfg.kv_cache_dtype,
            detect_gpu(),
            model,
            Settings.from_env().attention,
            cfg.enable_deterministic_inference,
        )
    except SettingsError as error:
        raise SystemExit(f"{PREFIX}{error}") from None
    if said:
        logger.warning(said)
        declare_resolution(server_args, "gemma4_readable_kv_dtype", kv_cache_dtype=kv_dtype.INSTEAD)


def _stands_down(ctx: Context) -> str | None:
    if ctx.gpu.vendor == "nvidia" and ctx.gpu.capability < E4M3_SINCE:
        return None
    return "this machine reads an FP8 KV cache, or has none"


def _retired() -> bool:
    from sglang.srt.mem_cache import kv_cache_dtype

    source = inspect.getsource(inspect.unwrap(kv_cache_dtype.configure_kv_cache_dtype))
    return "capability" in source


PATCH = Patch(
    name="readable_kv_dtype",
    theme="memory",
    summary="An FP8 KV cache that SGLang's attention would read is BF16 below compute capability "
    "8.9, with a warning",
    why="--kv-cache-dtype auto takes FP8 where the checkpoint declares it; SGLang's Triton "
    'attention does not compile for it before 8.9 (Triton: "type fp8e4nv not supported")',
    upstream="unreported",
    retire_when="configure_kv_cache_dtype asks for the GPU's compute capability",
    retired=_retired,
    hooks=(Hook(f"{MEMORY}.handle_gpu_memory_settings", "cc1fe2e7c35e", "before", _settle),),
    relies_on=(Source(CONFIGURE, "8e930fd38237"),),
    stands_down=_stands_down,
)
