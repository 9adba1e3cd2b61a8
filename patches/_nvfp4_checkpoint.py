# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's own files say about NVFP4, and whether this process needs the exact path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.model_family import ModelInfo

HF_QUANT_CONFIG = "hf_quant_config.json"
MODELOPT = "modelopt"
COMPRESSED_TENSORS = "compressed-tensors"


def nvfp4_format(model: ModelInfo) -> str | None:
    """MODELOPT or COMPRESSED_TENSORS for an NVFP4 checkpoint, else None."""
    config = model.config.get("quantization_config") or {}
    if config.get("quant_method") == COMPRESSED_TENSORS:
        groups = (config.get("config_groups") or {}).values()
        formats = {config.get("format"), *(group.get("format") for group in groups)}
        return COMPRESSED_TENSORS if "nvfp4-pack-quantized" in formats else None
    config = config or _read_json(model.path, HF_QUANT_CONFIG)
    algorithm = (config.get("quantization") or config).get("quant_algo")
    return MODELOPT if "NVFP4" in str(algorithm).upper() else None


def stands_down(ctx: Context, quant_format: str) -> str | None:
    """Why this process needs no exact path for `quant_format`, or None."""
    if not ctx.settings.cpu and not ctx.gpu.is_target:
        return f"it is for NVIDIA GPUs of compute capability 8.0 to 9.x; here: {ctx.gpu}"
    if ctx.settings.nvfp4 == "marlin":
        return "--gemma4-nvfp4 marlin leaves NVFP4 to SGLang's kernels"
    if ctx.settings.nvfp4 == "auto" and not ctx.settings.cpu and not _measured_faster(ctx):
        return (
            "SGLang's Marlin kernels serve NVFP4 on this GPU: the fused ones were not measured to "
            "be faster on it (--gemma4-nvfp4 fused takes them all the same)"
        )
    if ctx.model is not None and nvfp4_format(ctx.model) != quant_format:
        return f"the checkpoint is not an NVFP4 one of {quant_format}"
    return None


def uses_fused(ctx: Context) -> bool:
    """Whether the fused kernels multiply NVFP4 weights in this process."""
    if ctx.settings.nvfp4 == "auto" and not ctx.settings.cpu:
        return _measured_faster(ctx)
    return ctx.settings.nvfp4 == "fused"


def _measured_faster(ctx: Context) -> bool:
    from sglang_gemma4_ext.kernels.nvfp4_dispatch import table_for

    return table_for(ctx.gpu.name, ctx.gpu.capability).prefer == "fused"


def absent_projections(text: Any, layer: int) -> frozenset[str]:
    """The projections that layer has no weights for: K = V layers lack v, KV-shared ones k and v.

    text: the text part of a Gemma 4 configuration
    """
    shared = getattr(text, "num_kv_shared_layers", 0) or 0
    if shared and layer >= text.num_hidden_layers - shared:
        return frozenset({"k", "v"})
    if getattr(text, "attention_k_eq_v", False) and text.layer_types[layer] == "full_attention":
        return frozenset({"v"})
    return frozenset()


def _read_json(path: str, name: str) -> Mapping[str, Any]:
    """A JSON file of a local folder or a hub name; empty where there is none."""
    found = str(Path(path) / name)
    if not Path(path).is_dir():
        from transformers.utils import cached_file

        found = cached_file(path, name, _raise_exceptions_for_missing_entries=False) or ""
    try:
        return json.loads(Path(found).read_text())
    except (OSError, ValueError):
        return {}
