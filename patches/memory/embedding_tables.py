# SPDX-License-Identifier: Apache-2.0
"""Store the target's embedding tables as `--gemma4-ple host` and `--gemma4-head int8` ask.

The per-layer embeddings of E2B and E4B are 4.4 and 5.3 GiB in BF16; a token reads one row of 18 or
21 KiB. On the host they are allocated in pinned memory, loaded there and never copied to the GPU. A
kernel gathers rows over the bus.

The tied embedding and head is 1.4 GiB of a 26B-A4B and 2.6 GiB of a 31B in BF16, and each decode
step reads all of it. In INT8, one scale a row, it is quantized in chunks while it loads. Lookups
dequantize their rows, the head multiplies codes in registers, and an MTP assistant reads the same
rows.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sglang_gemma4_ext.checkpoint.expected import is_tied
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels.host_rows import host_rows
from sglang_gemma4_ext.patches.memory import _int8_table as int8
from sglang_gemma4_ext.registry import Hook, Patch, Source
from sglang_gemma4_ext.settings import Settings

MODELS = "sglang.srt.models"
TEXT_MODEL = f"{MODELS}.gemma4_causal.Gemma4TextModel"
EMBEDDING = f"{MODELS}.gemma3_causal.Gemma3TextScaledWordEmbedding"
ASSISTANT = f"{MODELS}.gemma4_mtp.Gemma4AssistantForCausalLM"
PROCESSOR = "sglang.srt.layers.logits_processor.LogitsProcessor"

# Columns of a table -> where or how it is stored, while a target is constructed.
Storages = dict[int, str]
_storages: contextvars.ContextVar[Storages] = contextvars.ContextVar("storages")
_in_draft: contextvars.ContextVar[bool] = contextvars.ContextVar("in_draft", default=False)


def storages(config: Any, settings: Settings, tied: bool) -> Storages:
    """Return the columns of the tables that the settings change. config: of the text model"""
    found: Storages = {}
    width = getattr(config, "hidden_size_per_layer_input", None) or 0
    if settings.ple == "host" and width:
        found[config.num_hidden_layers * width] = "host"
    if settings.head == "int8" and tied:
        found[config.hidden_size] = "int8"
    return found


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _construct_draft(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """AROUND the assistant's __init__: its own tables are small, and stay as they are."""
    with _set(_in_draft, True):
        original(*args, **kwargs)


def _construct_model(
    original: Callable[..., None], self: Any, config: Any, *args: Any, **kwargs: Any
) -> None:
    """AROUND Gemma4TextModel.__init__: tell its embeddings how they are stored."""
    tied = getattr(config, "tie_word_embeddings", True)
    chosen = {} if _in_draft.get() else storages(config, Settings.from_env(), tied)
    with _set(_storages, chosen):
        original(self, config, *args, **kwargs)


def _construct_embedding(
    original: Callable[..., None], self: Any, rows: int, columns: int, *args: Any, **kwargs: Any
) -> None:
    """AROUND the scaled embedding's __init__: allocate its table as it is stored."""
    storage = _storages.get({}).get(columns)
    if storage is None:
        original(self, rows, columns, *args, **kwargs)
        return
    device = torch.get_default_device()
    with torch.device("meta"):
        original(self, rows, columns, *args, **kwargs)
    dtype = self.weight.dtype
    # transformers would draw random values into the table, gigabytes of them or integers.
    self._is_hf_initialized = True
    if storage == "int8":
        self.weight = int8.make(rows, columns, dtype, device)
        return
    pinned = torch.cuda.is_available()
    table = torch.empty(rows, columns, dtype=dtype, device="cpu", pin_memory=pinned)
    self.weight = torch.nn.Parameter(table, requires_grad=False)


def _embed(original: Callable[..., torch.Tensor], self: Any, ids: torch.Tensor) -> torch.Tensor:
    """AROUND the scaled embedding's forward."""
    if int8.is_one(self.weight):
        return int8.lookup(self.weight, ids) * self.embed_scale
    if self.weight.device != ids.device:
        return host_rows(self.weight.data, ids.contiguous()) * self.embed_scale
    return original(self, ids)


def _logits(
    original: Callable[..., torch.Tensor],
    self: Any,
    hidden: torch.Tensor,
    head: Any,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """AROUND _compute_lm_head: logits in hidden's dtype, in fp32 where SGLang's flags ask."""
    table = getattr(head, "weight", None)
    if not int8.is_one(table):
        return original(self, hidden, head, *args, **kwargs)
    wide = self.use_fp32_lm_head or self.use_fp32_lm_head_output
    return int8.logits(hidden, table, torch.float32 if wide else hidden.dtype)


def _dtype(original: Callable[..., torch.dtype], self: Any) -> torch.dtype:
    """AROUND Gemma4TextModel.dtype, which takes that of the first parameter."""
    table: Any = getattr(self.embed_tokens, "weight", None)
    return table.gemma4_dtype if int8.is_one(table) else original(self)


def _draft(
    original: Callable[..., Any],
    self: Any,
    input_ids: torch.Tensor,
    positions: torch.Tensor,
    forward_batch: Any,
    input_embeds: torch.Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """AROUND the assistant's forward: look up the target's embeddings.

    Raises ValueError on a slice of an INT8 table, which has lost its scales.
    """
    table = self.target_embed_weight
    if input_embeds is None and table is not None and table.dtype == torch.int8:
        if not int8.is_one(table):
            raise ValueError(
                "--gemma4-head int8 does not go with MTP drafts and tensor parallelism for this "
                "checkpoint: leave one of them out"
            )
        input_embeds = int8.lookup(table, input_ids) * self.target_embed_scale
    return original(self, input_ids, positions, forward_batch, input_embeds, **kwargs)


def _stands_down(ctx: Context) -> str | None:
    ple, head = ctx.settings.ple, ctx.settings.head
    if ple == "gpu" and head == "checkpoint":
        return "tables stay as they are; --gemma4-ple host and --gemma4-head int8 change them"
    if ctx.model is None:
        return None
    if head == "int8" and is_tied(ctx.model):
        return None
    if ple == "host" and ctx.model.text.get("hidden_size_per_layer_input"):
        return None
    return "the model has no table that the flags could change"


def _retired() -> bool:
    from sglang.srt.models.gemma4_causal import Gemma4TextScaledWordEmbedding as Embedding

    parameters = inspect.signature(inspect.unwrap(Embedding.__init__)).parameters
    return "quant_config" in parameters


PATCH = Patch(
    name="embedding_tables",
    theme="memory",
    summary="If asked: per-layer embeddings in host memory, the tied embedding and head in INT8",
    why="--ple-offload-embedding is for another model only; SGLang's scaled embedding is "
    "nn.Embedding, which has no quantization method, so a tied head has none either",
    upstream="unreported",
    retire_when="Gemma4TextScaledWordEmbedding takes a quantization config",
    retired=_retired,
    hooks=(
        Hook(f"{ASSISTANT}.__init__", "ca9a9705f16c", "around", _construct_draft),
        Hook(f"{TEXT_MODEL}.__init__", "d950552b736c", "around", _construct_model),
        Hook(f"{TEXT_MODEL}.dtype", "95706962e99f", "around", _dtype),
        Hook(f"{EMBEDDING}.__init__", "c9403ffb15a3", "around", _construct_embedding),
        Hook(f"{EMBEDDING}.forward", "a37877da96e9", "around", _embed),
        Hook(f"{PROCESSOR}._compute_lm_head", "c5062fc225ca", "around", _logits),
        Hook(f"{ASSISTANT}.forward", "a4dc8b83f0c7", "around", _draft),
    ),
    relies_on=(
        Source(f"{TEXT_MODEL}.get_per_layer_inputs", "f861600bc526"),
        Source(
            f"{MODELS}.gemma4_mm.Gemma4ForConditionalGeneration.get_embed_and_head", "60e431224642"
        ),
    ),
    stands_down=_stands_down,
)
