# SPDX-License-Identifier: Apache-2.0
"""Keep the per-layer embeddings of E2B and E4B in host memory (`--gemma4-ple host`).

Their table is 4.4 and 5.3 GiB in BF16; a token reads one row of 18 or 21 KiB. It is allocated in
pinned memory, loaded there, and never copied to the GPU. A kernel gathers rows over the bus.
"""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels.host_rows import host_rows
from sglang_gemma4_ext.registry import Hook, Patch, Source

MODEL = "sglang.srt.models.gemma4_causal.Gemma4TextModel"
EMBEDDING = "sglang.srt.models.gemma3_causal.Gemma3TextScaledWordEmbedding"

# Columns of the table of the model under construction, layers x width.
_columns: contextvars.ContextVar[int] = contextvars.ContextVar("columns", default=0)


def _construct_model(
    original: Callable[..., None], self: Any, config: Any, *args: Any, **kwargs: Any
) -> None:
    """AROUND Gemma4TextModel.__init__: tell its embeddings which of them is the table."""
    width = getattr(config, "hidden_size_per_layer_input", None) or 0
    token = _columns.set(config.num_hidden_layers * width)
    try:
        original(self, config, *args, **kwargs)
    finally:
        _columns.reset(token)


def _construct_embedding(
    original: Callable[..., None], self: Any, rows: int, columns: int, *args: Any, **kwargs: Any
) -> None:
    """AROUND the scaled embedding's __init__: allocate the table in host memory."""
    if columns != _columns.get():
        original(self, rows, columns, *args, **kwargs)
        return
    with torch.device("meta"):
        original(self, rows, columns, *args, **kwargs)
    pinned = torch.cuda.is_available()
    table = torch.empty(
        rows, columns, dtype=self.weight.dtype, device="cpu", pin_memory=pinned
    )  # fmt: skip
    self.weight = torch.nn.Parameter(table, requires_grad=False)


def _embed(original: Callable[..., torch.Tensor], self: Any, ids: torch.Tensor) -> torch.Tensor:
    """AROUND the scaled embedding's forward: rows of a table that is not on the ids' device."""
    if self.weight.device == ids.device:
        return original(self, ids)
    return host_rows(self.weight.data, ids.contiguous()) * self.embed_scale


def _stands_down(ctx: Context) -> str | None:
    if ctx.settings.ple != "host":
        return "per-layer embeddings stay on the GPU; --gemma4-ple host moves them"
    if ctx.model is not None and not ctx.model.text.get("hidden_size_per_layer_input"):
        return "the model has no per-layer embeddings"
    return None


def _retired() -> bool:
    from sglang.srt.model_executor.model_runner_components import load_model_utils

    source = inspect.getsource(load_model_utils)
    return "--ple-offload-embedding only supports Qwen4Exp" not in source


PATCH = Patch(
    name="host_ple",
    theme="memory",
    summary="E2B and E4B keep their per-layer embeddings in host memory, if asked",
    why="--ple-offload-embedding is for another model only, and --cpu-offload-gb moves layers",
    upstream="unreported",
    retire_when="--ple-offload-embedding takes Gemma 4",
    retired=_retired,
    hooks=(
        Hook(f"{MODEL}.__init__", "d950552b736c", "around", _construct_model),
        Hook(f"{EMBEDDING}.__init__", "c9403ffb15a3", "around", _construct_embedding),
        Hook(f"{EMBEDDING}.forward", "a37877da96e9", "around", _embed),
    ),
    relies_on=(Source(f"{MODEL}.get_per_layer_inputs", "f861600bc526"),),
    stands_down=_stands_down,
)
