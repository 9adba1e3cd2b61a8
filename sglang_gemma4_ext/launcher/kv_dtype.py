# SPDX-License-Identifier: Apache-2.0
"""Keep FP8 keys and values away from GPUs whose Triton cannot read them.

SGLang's Triton attention does not compile for an E4M3 cache below compute capability 8.9. Triton
says "type fp8e4nv not supported". Checkpoints that declare an FP8 KV cache get one with
`--kv-cache-dtype auto`.
"""

from __future__ import annotations

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.quantization import declares_fp8_kv
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.plan.question import E4M3_SINCE
from sglang_gemma4_ext.settings import SettingsError

FLAG = "--kv-cache-dtype"
INSTEAD = "bfloat16"


def warning(asked: str | None, gpu: Gpu, model: ModelInfo | None) -> str:
    """Say that INSTEAD is served, or return an empty string where SGLang's choice runs.

    asked: the value of FLAG. model: the target, None where its config cannot be read.
    Raises SettingsError where the user asked for E4M3.
    """
    if gpu.vendor != "nvidia" or gpu.capability >= E4M3_SINCE:
        return ""
    if asked == "fp8_e4m3":
        raise SettingsError(
            f"{FLAG} {asked} needs compute capability 8.9, and {gpu} has less: leave it out to "
            "serve BF16 keys and values"
        )
    if asked not in (None, "auto") or model is None or not declares_fp8_kv(model):
        return ""
    return (
        f"the checkpoint declares an FP8 KV cache, which {gpu} cannot read: {FLAG} {INSTEAD} is "
        "used, at two bytes a value instead of one"
    )


def settle(line: CommandLine, gpu: Gpu, model: ModelInfo | None) -> str:
    """Serve INSTEAD where a declared FP8 cache cannot run; the warning. Raises SettingsError."""
    said = warning(line.value(FLAG), gpu, model)
    if said:
        line.replace(FLAG, INSTEAD)
    return said
