# SPDX-License-Identifier: Apache-2.0
"""Check each KV slot before attention reads it, under SGLANG_TRTLLM_MHA_DEBUG=1.

A page or slot beyond its pool is an illegal address on a GPU, reported long after and elsewhere.
Here the slots are checked before each layer, in the backend's own metadata: `kv_indices` (Triton),
or `page_table` and `swa_page_table` (TRTLLM-MHA, FlashAttention). A violation raises a Python
exception and writes a file with the tables. So does an SWA slot beyond its pool when it is handed
out.

Each check waits for the GPU. There is none inside a CUDA graph: search with
--cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled. PyTorch's own attention
checks indices anyway. Without the variable nothing is hooked.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

ATTENTION = "sglang.srt.layers.attention"
BACKEND = f"{ATTENTION}.base_attn_backend.AttentionBackend"
ALLOCATOR = "sglang.srt.mem_cache.allocator.swa.SWATokenToKVPoolAllocator"


class KVBoundsError(RuntimeError):
    """Report a slot or page beyond its pool; the message names the file with the tables."""


def _before_forward(
    self: Any, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, *args: Any, **kwargs: Any
) -> None:
    """BEFORE AttentionBackend.forward, which every backend with one pool calls."""
    metadata = getattr(self, "forward_metadata", None)
    if metadata is None or forward_batch.forward_mode.is_idle() or _is_capturing():
        return
    pool = self.token_to_kv_pool
    rows = pool.get_key_buffer(layer.layer_id).shape[0]
    sliding = _is_sliding(pool, layer.layer_id)
    for name, reads, limit in _reads(metadata, layer, sliding, rows):
        _require_within(name, reads, limit, layer=layer.layer_id, metadata=vars(metadata))


def _is_sliding(pool: Any, layer_id: int) -> bool:
    mapping = getattr(pool, "layers_mapping", None)
    return mapping is not None and mapping[layer_id][1]


def _reads(metadata: Any, layer: Any, sliding: bool, rows: int) -> list[tuple[str, Any, int]]:
    """Return (table, indices that this layer reads in it, size of the pool)."""
    found = vars(metadata)
    windowed = layer.sliding_window_size is not None and layer.sliding_window_size > -1
    prefix = "window_" if windowed else ""
    slots, indptr = found.get(f"{prefix}kv_indices"), found.get(f"{prefix}kv_indptr")
    if slots is not None and indptr is not None:
        return [(f"{prefix}kv_indices", slots[: int(indptr[-1])], rows)]
    table, lengths = found.get("page_table"), found.get("cache_seqlens_int32")
    name = "page_table"
    if sliding and found.get("swa_page_table") is not None:
        name, table = "swa_page_table", found["swa_page_table"]
    if table is None or lengths is None:
        return []
    page_size = found.get("page_size") or _page_size()
    used = torch.arange(table.shape[1], device=table.device) * page_size < lengths[:, None]
    return [(name, table[: lengths.shape[0]][used], rows // page_size)]


def _page_size() -> int:
    from sglang.srt.runtime_context import get_schedule

    return get_schedule().page_size


def _before_mapping(self: Any, full_indices: torch.Tensor, swa_indices: torch.Tensor) -> None:
    """BEFORE set_full_to_swa_mapping, which hands out every SWA slot."""
    sizes = {"size_full": self._size_full, "size_swa": self._size_swa, "page_size": self.page_size}
    # Slots count from one; the first page is where padding is written.
    for name, slots in (("full", full_indices), ("swa", swa_indices)):
        limit = sizes[f"size_{name}"] + self.page_size
        _require_within(f"{name} slots", slots, limit, layer=None, metadata=sizes)


def _require_within(
    name: str, indices: torch.Tensor, limit: int, *, layer: int | None, metadata: dict[str, Any]
) -> None:
    """Raise KVBoundsError unless 0 <= indices < limit."""
    if indices.numel() == 0:
        return
    low, high = int(indices.min()), int(indices.max())
    if low >= 0 and high < limit:
        return
    tables = {key: value for key, value in metadata.items() if _is_plain(value)}
    kept = _keep({"table": name, "indices": indices, "limit": limit, "layer": layer, **tables})
    raise KVBoundsError(
        f"{name} of layer {layer} holds {low} to {high} where 0 to {limit - 1} exist; {kept}"
    )


def _keep(content: dict[str, Any]) -> str:
    """Write a file that only this user may read. Return its path, or why there is none.

    A full disk must not hide the violation.
    """
    prefix = f"gemma4_kv_bounds_{os.getpid()}_"
    try:
        handle, file = tempfile.mkstemp(prefix=prefix, suffix=".pt")
    except OSError as error:
        return f"the tables could not be kept ({error.strerror})"
    try:
        with os.fdopen(handle, "wb") as stream:
            torch.save(content, stream)
    # torch's own writer of the archive makes a RuntimeError of a failed write.
    except (OSError, RuntimeError) as error:
        Path(file).unlink(missing_ok=True)
        return f"the tables could not be kept ({str(error).splitlines()[0]})"
    return f"the tables are in {file}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor | int | float | str | bool | None)


def _is_capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _stands_down(ctx: Context) -> str | None:
    return None if ctx.settings.check_bounds else "SGLANG_TRTLLM_MHA_DEBUG=1 is not set"


def _retired() -> bool:
    from sglang.srt.layers.attention import base_attn_backend

    return "DEBUG" in inspect.getsource(base_attn_backend)


PATCH = Patch(
    name="kv_bounds_check",
    theme="memory",
    summary="SGLANG_TRTLLM_MHA_DEBUG=1: a slot beyond its pool is an exception and a file",
    why="SGLang checks no page table before its kernels",
    upstream="unreported",
    retire_when="SGLang has a check of its own",
    retired=_retired,
    hooks=(
        Hook(f"{BACKEND}.forward", "7512975897cb", "before", _before_forward),
        Hook(f"{ALLOCATOR}.set_full_to_swa_mapping", "ca77f1db538a", "before", _before_mapping),
    ),
    relies_on=(
        Source(f"{ATTENTION}.triton_backend.ForwardMetadata", "8d3adfb4d415"),
        Source(f"{ALLOCATOR}.alloc", "032787c875ad"),
        Source(f"{ALLOCATOR}.alloc_extend", "578ea87788bb"),
    ),
    stands_down=_stands_down,
)
