# SPDX-License-Identifier: Apache-2.0
"""Attend over a KV cache of E4M3 with our kernels, on every GPU from 8.0 to 9.0.

SGLang's Triton attention does not compile for such a cache before 8.9. Where it compiles, it rounds
the queries and the softmax weights to E4M3 as well. Ours read the cache as bytes, and round neither
below BF16.

SGLang still writes the cache, plans the slots, and chooses how many programs share a request's
keys. A call with something that Gemma 4 does not have, such as attention sinks, stays SGLang's.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source
from sglang_gemma4_ext.settings import Settings

OPS = "sglang.kernels.ops.attention"
DECODE = f"{OPS}.decode_attention"
EXTEND = f"{OPS}.extend_attention"
BACKEND = "sglang.srt.layers.attention.triton_backend.TritonAttnBackend"
# Options of SGLang's functions that our kernels do not have, and the values that turn them off.
FOREIGN: dict[str, tuple[Any, ...]] = {
    "sinks": (None,),
    "score_mod": (None,),
    "lse_extend": (None,),
    "has_mla": (False,),
    "skip_prefix": (False,),
    "skip_extend": (False,),
    "identity_kv_indices": (False,),
}


@functools.cache
def _serves_every_dtype() -> bool:
    return Settings.from_env().attention == "ours"


def _is_ours(q: torch.Tensor, k_cache: torch.Tensor, options: dict[str, Any]) -> bool:
    """Tell whether our kernels take this call."""
    from sglang_gemma4_ext.kernels.attention_checks import HEAD_DIMS, MAX_GROUP

    wanted = k_cache.dtype == torch.float8_e4m3fn or _serves_every_dtype()
    fits = (
        q.shape[-1] in HEAD_DIMS
        and q.shape[-1] == k_cache.shape[-1]
        and k_cache.dim() == 3
        and q.shape[1] // k_cache.shape[1] <= MAX_GROUP
        and k_cache.dtype in (q.dtype, torch.float8_e4m3fn)
    )
    plain = all(options.get(name, off[0]) in off for name, off in FOREIGN.items())
    return wanted and fits and plain and (options.get("xai_temperature_len") or -1) <= 0


def _decode(
    original: Callable[..., None],
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    out: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    parts: torch.Tensor,
    lse: torch.Tensor,
    num_splits: torch.Tensor,
    max_splits: int,
    scale: float,
    k_scale: float,
    v_scale: float,
    **options: Any,
) -> None:
    """Take decode_attention_fwd's arguments. parts and lse: SGLang's scratch, used if it fits."""
    from sglang_gemma4_ext.kernels.decode_attention import decode_attention

    if not _is_ours(q, k_cache, options):
        return original(
            *(q, k_cache, v_cache, out, kv_indptr, kv_indices, parts, lse, num_splits),
            *(max_splits, scale, k_scale, v_scale),
            **options,
        )
    fits = parts.is_contiguous() and parts.shape[1:] == (q.shape[1], max_splits, q.shape[2])
    decode_attention(
        *(q, k_cache, v_cache, kv_indptr, kv_indices, num_splits, max_splits),
        scale=scale,
        k_scale=k_scale,
        v_scale=v_scale,
        logit_cap=options.get("logit_cap") or 0.0,
        out=out,
        scratch=(parts, lse) if fits and lse.is_contiguous() else None,
    )
    return None


def _extend(
    original: Callable[..., None],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    qo_indptr: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    mask_indptr: torch.Tensor | None,
    max_new: int,
    k_scale: float,
    v_scale: float,
    scale: float | None = None,
    **options: Any,
) -> None:
    """Take extend_attention_fwd's arguments."""
    from sglang_gemma4_ext.kernels.extend_attention import extend_attention

    if not _is_ours(q, k_cache, options):
        return original(
            *(q, k, v, out, k_cache, v_cache, qo_indptr, kv_indptr, kv_indices, mask, causal),
            *(mask_indptr, max_new, k_scale, v_scale, scale),
            **options,
        )
    distance = options.get("sliding_window_size", -1)
    extend_attention(
        *(q, k, v, k_cache, v_cache, qo_indptr, kv_indptr, kv_indices, max_new),
        scale=scale or q.shape[-1] ** -0.5,
        k_scale=k_scale,
        v_scale=v_scale,
        logit_cap=options.get("logit_cap") or 0.0,
        distance=distance if distance > 0 else None,
        causal=causal,
        mask=mask,
        mask_indptr=None if mask is None else mask_indptr,
        # As SGLang, which takes the offsets for sliding layers alone.
        mask_offsets=options.get("window_kv_offsets") if distance > 0 else None,
        mask_cached=not options.get("skip_prefix_custom_mask", True),
        out=out,
    )
    return None


def _own_attention(result: None, self: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER __init__ of the backend: ask our functions before SGLang's.

    The backend keeps SGLang's functions as attributes. Other patches change the functions below.
    """
    self.decode_attention_fwd = _before(_decode, self.decode_attention_fwd)
    self.extend_attention_fwd = _before(_extend, self.extend_attention_fwd)


def _before(ours: Callable[..., None], theirs: Callable[..., None]) -> Callable[..., None]:
    def attend(*args: Any, **kwargs: Any) -> None:
        return ours(theirs, *args, **kwargs)

    # As SGLang's functions, it is opaque to torch.compile.
    return torch.compiler.disable(attend)


def _stands_down(ctx: Context) -> str | None:
    if ctx.settings.attention == "sglang":
        return "--gemma4-attention sglang"
    if ctx.settings.cpu:
        return None if ctx.settings.cpu_attention == "triton" else "torch_native serves attention"
    return None if ctx.gpu.is_target else "for NVIDIA GPUs of compute capability 8.0 to 9.0"


def _retired() -> bool:
    """Tell whether SGLang keeps the queries' dtype over a cache of E4M3 on NVIDIA GPUs."""
    from sglang.kernels.ops.attention import decode_attention

    source = inspect.getsource(decode_attention._fwd_grouped_kernel_stage1.fn)
    return "q_k = q.to(K_Buffer.dtype.element_ty)" not in source


PATCH = Patch(
    name="byte_kv_attention",
    theme="model",
    summary="An E4M3 KV cache is read as bytes, with queries and softmax weights in BF16",
    why="SGLang's Triton attention does not compile for E4M3 before 8.9, and rounds queries and "
    "softmax weights to E4M3; no flag changes it, and its attention registry replaces the backend",
    upstream="unreported",
    retire_when="_fwd_grouped_kernel_stage1 keeps the queries in their dtype",
    retired=_retired,
    hooks=(Hook(f"{BACKEND}.__init__", "f2dba0f1048f", "after", _own_attention),),
    relies_on=(
        Source(f"{DECODE}.decode_attention_fwd", "618af192d7df"),
        Source(f"{EXTEND}.extend_attention_fwd", "b0cc63493292"),
        Source(f"{DECODE}._fwd_grouped_kernel_stage1.fn", "3b12720e93fd"),
        Source(f"{BACKEND}.forward_decode", "d2e7c06f8356"),
        Source(f"{BACKEND}.forward_extend", "f6f5f46fc397"),
        Source("sglang.srt.mem_cache.memory_pool.MHATokenToKVPool.set_kv_buffer", "f5ac5415f050"),
    ),
    stands_down=_stands_down,
)
