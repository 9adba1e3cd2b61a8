# SPDX-License-Identifier: Apache-2.0
"""Refuse on the CPU what SGLang computes on a GPU alone."""

from __future__ import annotations

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.settings import SettingsError

# SGLang's layers of these formats ask for CUDA while they are built or loaded.
_QUANTIZATIONS = ("fp8", "bitsandbytes")
HOST_CACHE = "--enable-hierarchical-cache"
GRAPHS = ("--cuda-graph-backend-decode", "--cuda-graph-backend-prefill")


def require_cpu_formats(line: CommandLine, target: ModelInfo | None) -> None:
    """Raise SettingsError if the checkpoint or a flag needs a GPU."""
    for flag in GRAPHS:
        if (line.value(flag) or "disabled") != "disabled":
            raise SettingsError(
                f"{flag} {line.value(flag)} needs a GPU, and this machine has none: leave it out"
            )
    if line.has(HOST_CACHE):
        raise SettingsError(
            f"{HOST_CACHE} needs a GPU, whose memory it extends, and this machine has none: "
            "leave it out"
        )
    asked = line.value("--quantization") or ""
    if set(asked.split("_")) & set(_QUANTIZATIONS):
        raise SettingsError(
            f"--quantization {asked} needs a GPU, and this machine has none: leave it out"
        )
    if target is not None and target.is_gemma4 and describe(target).declares("bitsandbytes"):
        raise SettingsError(
            f"{target.path} has bitsandbytes layers, which SGLang computes on a GPU alone: serve "
            "it on a machine with one, or the checkpoint that it was made from"
        )
