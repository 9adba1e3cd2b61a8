# SPDX-License-Identifier: Apache-2.0
"""Read what is served, a model and its draft, from folders, config files or names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

from sglang_gemma4_ext.checkpoint.assistant_fit import check_fit
from sglang_gemma4_ext.checkpoint.files import read_headers
from sglang_gemma4_ext.checkpoint.hub import local_folder
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo, read_model_info
from sglang_gemma4_ext.checkpoint.quantization import declares_fp8_kv, describe
from sglang_gemma4_ext.checkpoint.schemes import Quantization
from sglang_gemma4_ext.plan import weights
from sglang_gemma4_ext.plan.geometry import Geometry, PlanError, built_in, from_config
from sglang_gemma4_ext.plan.weights import Weights
from sglang_gemma4_ext.settings import Head, Ple

# Formats in names of checkpoints whose weights the planner cannot estimate.
_OTHER_FORMAT = re.compile(r"awq|gptq|gguf|bnb|int[48]|[48]bit|w[48]a|q[2-8]")
DRAFT_FLAG = "--speculative-draft-model-path"
DEFAULT_DRAFT_TOKENS = 4


@dataclass(frozen=True)
class Draft:
    """Describe a speculative draft, which uses the target's KV; false if there is none.

    size: bytes of its weights
    layers: its layers; stock SGLang reserves KV for each
    tokens: verified by a decode step per request
    """

    path: str = ""
    size: int = 0
    layers: int = 0
    tokens: int = 1

    def __bool__(self) -> bool:
        return self.size > 0


NO_DRAFT = Draft()


@dataclass(frozen=True)
class Served:
    """Hold a model and its draft, as bytes and shapes.

    fp8_kv: the checkpoint declares an FP8 KV cache
    """

    geometry: Geometry
    weights: Weights
    draft: Draft = NO_DRAFT
    fp8_kv: bool = False


def read(
    path: str,
    *,
    fmt: str | None = None,
    tp: int = 1,
    multimodal: bool = False,
    draft: str | None = None,
    draft_tokens: int | None = None,
    ple: Ple = "gpu",
    head: Head = "checkpoint",
) -> Served:
    """Read a --model-path and a draft's path. Raises PlanError or CheckpointError.

    path: a folder, a config.json, a hub name in the cache or a built-in name
    fmt: one of weights.FORMATS, in place of the format in the folder's files
    ple: memory that holds the per-layer embeddings
    head: how the tied embedding and head is held
    """
    path = str(local_folder(path) or path)
    model = _model(path)
    geometry = from_config(model) if model else built_in(path)
    quantization = describe(model) if model else Quantization()
    held = _weights(path, geometry, fmt, tp, multimodal, quantization)
    if ple == "host":
        held = held.with_host_ple()
    if head == "int8":
        held = held.with_int8_head(geometry)
    drafting = _draft(draft, draft_tokens, model) if draft else NO_DRAFT
    return Served(geometry, held, drafting, model is not None and declares_fp8_kv(model))


def _model(path: str) -> ModelInfo | None:
    """Return the config of a folder or file, or None if the path is neither."""
    folder = Path(path).parent if path.endswith(".json") else Path(path)
    if not folder.is_dir() or not Path(path).exists():
        return None
    model = read_model_info(str(folder.resolve()))
    if model is None:
        raise PlanError(f"{folder} has no readable config.json: give a checkpoint's folder")
    return model


def _weights(
    path: str,
    geometry: Geometry,
    fmt: str | None,
    tp: int,
    multimodal: bool,
    quantization: Quantization,
) -> Weights:
    folder = Path(path)
    if folder.is_dir() and fmt is None and any(folder.glob("*.safetensors")):
        tensors = read_headers(folder)
        return weights.from_headers(
            tensors, geometry, tp, multimodal=multimodal, quantization=quantization
        )
    if multimodal:
        raise PlanError("--enable-multimodal needs a checkpoint's folder: its towers are summed")
    named = "bf16" if fmt or folder.exists() else _named_format(path)
    return weights.estimate(geometry, fmt or named, tp)


def _named_format(name: str) -> str:
    """Return the format that a model's name tells. Raises PlanError if it tells another."""
    tail = name.rpartition("/")[2].lower()
    if _OTHER_FORMAT.search(tail):
        raise PlanError(
            f"the planner does not know how {name} is quantized: download it and give its folder, "
            f"or say --weights {{{','.join(weights.FORMATS)}}}"
        )
    return next((fmt for fmt in ("nvfp4", "fp8") if fmt in tail), "bf16")


def _draft(path: str, tokens: int | None, target: ModelInfo | None) -> Draft:
    folder = local_folder(path)
    if folder is None:
        raise PlanError(f"{DRAFT_FLAG} {path} is not a folder: give the assistant's")
    size = sum(
        prod(tensor.shape) * weights.element_bytes(name, tensor)
        for name, tensor in read_headers(folder).items()
    )
    model = read_model_info(str(folder.resolve()))
    if model is not None and target is not None:
        check_fit(target, model)
    layers = model.text.get("num_hidden_layers", 0) if model else 0
    return Draft(path, size, layers, tokens or DEFAULT_DRAFT_TOKENS)
