# SPDX-License-Identifier: Apache-2.0
"""Refuse on the CPU what SGLang computes on a GPU alone."""

from __future__ import annotations

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.checkpoint.schemes import COMPRESSED_TENSORS
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.settings import SettingsError

# SGLang's layers of these formats ask for CUDA while they are built or loaded.
_GPU_FORMATS = {"fp8": "FP8", "bitsandbytes": "bitsandbytes"}


def require_cpu_formats(line: CommandLine, target: ModelInfo | None) -> None:
    """Raise SettingsError if the checkpoint or --quantization needs a GPU."""
    asked = line.value("--quantization") or ""
    for fmt, title in _GPU_FORMATS.items():
        if fmt in asked.split("_"):
            raise SettingsError(
                f"--quantization {asked} needs a GPU, and this machine has none: leave it out"
            )
        if target is not None and target.is_gemma4 and _needs_gpu(target, fmt):
            raise SettingsError(
                f"{target.path} has {title} layers, which SGLang computes on a GPU alone: serve it "
                "on a machine with one, or the checkpoint that it was made from"
            )


def _needs_gpu(target: ModelInfo, fmt: str) -> bool:
    """Tell whether a layer is in a format for GPUs: cpu_fp8_linears serves some FP8 linears."""
    quantization = describe(target)
    if fmt != "fp8" or quantization.tool != COMPRESSED_TENSORS:
        return any(scheme.format == fmt for scheme in quantization.schemes)
    layers = range(len(target.text.get("layer_types") or [])) if target.is_moe else ()
    experts = (f"model.language_model.layers.{i}.experts.0.down_proj" for i in layers)
    return any(quantization.of(name).format == fmt for name in experts)
