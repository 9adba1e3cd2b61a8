# SPDX-License-Identifier: Apache-2.0
"""Refuse what a quantization config asks for and SGLang would leave out or misread in silence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.checkpoint.files import CheckpointError, Tensor, json_object

_PLAIN = ("BF16", "F16", "F32")
_HEAD_LEAVES = ("weight", "weight_packed", "qweight")
_DENSE = ("", "dense", "none")


def check_section(config: dict[str, Any], file: Path) -> None:
    """Check the `quantization_config` of config.json. Raises CheckpointError."""
    section = json_object(config, "quantization_config", file)
    if json_object(section, "transform_config", file).get("config_groups"):
        raise CheckpointError(
            f"{file} declares transforms of activations (transform_config), which SGLang does not "
            "compute: quantize again without them"
        )
    sparse = json_object(section, "sparsity_config", file).get("format")
    if str(sparse or "").lower() not in _DENSE:
        raise CheckpointError(
            f"{file} declares sparse weights ({sparse}), which no kernel serves: quantize again "
            "without sparsity"
        )
    version = str(section.get("version") or "gemm").lower()
    if section.get("quant_method") == "awq" and version != "gemm":
        raise CheckpointError(
            f"{file} declares AWQ in the packing {version}; only gemm is served: quantize again "
            'with version="gemm"'
        )


def check_head(tensors: Mapping[str, Tensor], path: str) -> None:
    """Check a head of its own. Raises CheckpointError if it is quantized."""
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        if owner.rpartition(".")[2] != "lm_head" or leaf not in _HEAD_LEAVES:
            continue
        if leaf != "weight" or tensor.dtype not in _PLAIN:
            raise CheckpointError(
                f"{path} holds a quantized lm_head ({name}), which is not served: quantize again "
                "with lm_head among the ignored modules; --gemma4-head int8 shrinks a tied one"
            )
