# SPDX-License-Identifier: Apache-2.0
"""Describe each layer's quantization from config.json or hf_quant_config.json.

config.json decides where it states a quantization, as in SGLang.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.checkpoint import quantization_files
from sglang_gemma4_ext.checkpoint.files import load_json
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.schemes import Quantization

HF_QUANT_CONFIG = "hf_quant_config.json"


def describe(model: ModelInfo) -> Quantization:
    """Describe a local checkpoint or a hub name. Raises CheckpointError on a malformed file."""
    folder = Path(model.path)
    file, declared = folder / "config.json", model.config.get("quantization_config")
    if not declared:
        file, declared = folder / HF_QUANT_CONFIG, _hf_quant_config(model.path)
    return quantization_files.read(declared, file) if declared else Quantization()


def declares_fp8_kv(model: ModelInfo) -> bool:
    """Tell whether SGLang's `--kv-cache-dtype auto` means FP8. Raises CheckpointError."""
    scheme = describe(model).kv_cache
    return scheme is not None and scheme.format == "fp8"


def _hf_quant_config(path: str) -> Mapping[str, Any]:
    """Return the content of hf_quant_config.json; empty without the file."""
    file = Path(path) / HF_QUANT_CONFIG
    if Path(path).is_dir():
        return load_json(file) if file.is_file() else {}
    from transformers.utils import cached_file

    found = cached_file(path, HF_QUANT_CONFIG, _raise_exceptions_for_missing_entries=False)
    try:
        content = json.loads(Path(found or "").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
