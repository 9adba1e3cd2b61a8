# SPDX-License-Identifier: Apache-2.0
"""Keep keys and values in the model's dtype on the CPU reference, unless the user says otherwise.

A checkpoint with FP8 KV-cache scales makes SGLang store keys and values in FP8. The CPU's attention
does not apply those scales, and a reference must give the exact answer of the weights. A value of
--kv-cache-dtype is kept.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch

CONFIGURE = "sglang.srt.mem_cache.kv_cache_dtype.configure_kv_cache_dtype"


def _model_dtype(
    result: tuple[str | None, torch.dtype],
    *,
    server_args_kv_cache_dtype: str,
    model_dtype: torch.dtype,
    **kwargs: Any,
) -> tuple[str | None, torch.dtype]:
    """AFTER configure_kv_cache_dtype: (name, dtype); no name means as the flag says."""
    return (None, model_dtype) if server_args_kv_cache_dtype == "auto" else result


def _stands_down(ctx: Context) -> str | None:
    return None if ctx.settings.cpu else "a GPU's attention kernels read FP8 keys and values"


def _retired() -> bool:
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend as Native

    source = inspect.getsource(inspect.unwrap(Native._run_sdpa_forward_decode))
    return "k_scale" in source


PATCH = Patch(
    name="cpu_exact_kv_cache",
    theme="cpu",
    summary="CPU reference: FP8 KV-cache scales in a checkpoint do not change its answers",
    why="--kv-cache-dtype auto becomes FP8 wherever a checkpoint has KV-cache scales, and names "
    "every dtype but fp32; torch_native attention reads FP8 without them",
    upstream="unreported",
    retire_when="torch_native attention applies the layer's k_scale and v_scale",
    retired=_retired,
    hooks=(Hook(CONFIGURE, "8e930fd38237", "after", _model_dtype),),
    stands_down=_stands_down,
)
