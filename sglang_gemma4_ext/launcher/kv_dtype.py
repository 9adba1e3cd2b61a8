# SPDX-License-Identifier: Apache-2.0
"""Keep FP8 keys and values away from GPUs whose Triton cannot read them.

SGLang's Triton attention does not compile for an E4M3 cache below compute capability 8.9. Triton
says "type fp8e4nv not supported". Checkpoints that declare an FP8 KV cache get one with
`--kv-cache-dtype auto`.
"""

from __future__ import annotations

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.settings import SettingsError

FLAG = "--kv-cache-dtype"
E4M3_SINCE = (8, 9)


def settle(line: CommandLine, gpu: Gpu, model: ModelInfo | None) -> str:
    """Serve BF16 keys and values where a declared FP8 cache cannot run.

    model: the target, None where its config cannot be read
    Returns a warning, or an empty string. Raises SettingsError where the user asked for E4M3.
    """
    if gpu.vendor != "nvidia" or gpu.capability >= E4M3_SINCE:
        return ""
    asked = line.value(FLAG)
    if asked == "fp8_e4m3":
        raise SettingsError(
            f"{FLAG} {asked} needs compute capability 8.9, and {gpu} has less: leave it out to "
            "serve BF16 keys and values"
        )
    if asked not in (None, "auto") or model is None or describe(model).kv_cache is None:
        return ""
    line.replace(FLAG, "bfloat16")
    return (
        f"the checkpoint declares an FP8 KV cache, which {gpu} cannot read: {FLAG} bfloat16 is "
        "used, at two bytes a value instead of one"
    )
