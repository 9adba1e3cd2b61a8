# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's FlashAttention backend on a CPU: its own metadata code, a kernel in PyTorch.

The backend's page tables decide which slots a layer reads. Only the kernel that reads them is
replaced, and the vendor's packages that cannot be imported without a driver.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import torch

from sglang_gemma4_ext.kernels.attention_ref import attend_ref

MODULES = ("sglang.kernels.ops.attention.flash_attention_v4", "sgl_kernel", "sgl_kernel.flash_attn")


def flash_attn_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    page_table: torch.Tensor,
    cache_seqlens: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    softmax_scale: float,
    causal: bool,
    window_size: tuple[int, int] = (-1, -1),
    **unused: Any,
) -> torch.Tensor:
    """Compute causal paged attention with the arguments that decode and verify pass to flash-attn.

    q: [tokens, heads, D]; k_cache, v_cache: [pages, page size, KV heads, D]
    page_table: int32 [requests, pages]; window_size: (distance to the oldest key or -1, 0 or -1)
    """
    assert causal and not unused.get("return_softmax_lse")
    out = torch.empty(*q.shape[:-1], v_cache.shape[-1], dtype=q.dtype)
    page_size = k_cache.shape[1]
    keys, values = k_cache.flatten(0, 1), v_cache.flatten(0, 1)
    window = window_size[0] + 1 if window_size[0] >= 0 else None
    for request, length in enumerate(cache_seqlens.tolist()):
        rows = slice(*cu_seqlens_q[request : request + 2].tolist())
        position = torch.arange(length)
        slots = page_table[request, position // page_size].long() * page_size + position % page_size
        out[rows] = attend_ref(
            q[rows], keys[slots], values[slots], scale=softmax_scale, window=window
        )
    return out


def _absent(*args: Any, **kwargs: Any) -> None:
    raise NotImplementedError("no test needs this kernel")


def install() -> None:
    """Let SGLang's torch_native backend be its FlashAttention backend (fa4), in this process."""
    for name in MODULES:
        module = sys.modules[name] = types.ModuleType(name)
        module.__path__ = []
        module.flash_attn_with_kvcache = flash_attn_with_kvcache
        module.flash_attn_varlen_func = module.merge_state_v2 = _absent
        module.get_scheduler_metadata = _absent
    from sglang.srt.layers.attention import attention_registry

    def build(runner: Any) -> Any:
        from sglang.srt.layers.attention.flashattention_backend import FlashAttentionBackend

        return FlashAttentionBackend(runner, fa_impl_ver=4)

    attention_registry.ATTENTION_BACKENDS["torch_native"] = build
