# SPDX-License-Identifier: Apache-2.0
"""Keep FP8 keys and values away from attention that cannot read them.

SGLang's Triton attention does not compile for an E4M3 cache below compute capability 8.9. Triton
says "type fp8e4nv not supported". Ours reads such a cache from 8.0 on, where the user asks for it.
Checkpoints that declare an FP8 KV cache get one with `--kv-cache-dtype auto` from 8.9 on.
"""

from __future__ import annotations

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.quantization import declares_fp8_kv
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.plan.question import E4M3_SINCE
from sglang_gemma4_ext.settings import Attention, SettingsError

FLAG = "--kv-cache-dtype"
INSTEAD = "bfloat16"
# SGLang's batch-invariant extend attention is another kernel, which we do not replace.
DETERMINISTIC = "--enable-deterministic-inference"


def warning(
    asked: str | None,
    gpu: Gpu,
    model: ModelInfo | None,
    attention: Attention,
    deterministic: bool = False,
) -> str:
    """Say that INSTEAD is served, or return an empty string where the choice runs.

    asked: the value of FLAG. model: the target, None where its config cannot be read.
    attention: --gemma4-attention. deterministic: the server has DETERMINISTIC
    Raises SettingsError where the user asked for E4M3 and SGLang's attention.
    """
    if gpu.vendor != "nvidia" or gpu.capability >= E4M3_SINCE:
        return ""
    if asked == "fp8_e4m3":
        other = "--gemma4-attention sglang" if attention == "sglang" else DETERMINISTIC
        if attention == "sglang" or deterministic:
            raise SettingsError(
                f"{FLAG} {asked} with {other} needs compute capability 8.9, and {gpu} has less: "
                "leave one of the two out"
            )
        return ""
    if asked not in (None, "auto") or model is None or not declares_fp8_kv(model):
        return ""
    return (
        f"the checkpoint declares an FP8 KV cache, which SGLang's attention cannot read on {gpu}: "
        f"{FLAG} {INSTEAD} is used, at two bytes a value instead of one; {FLAG} fp8_e4m3 serves it "
        "in one byte"
    )


def settle(line: CommandLine, gpu: Gpu, model: ModelInfo | None, attention: Attention) -> str:
    """Serve INSTEAD where a declared FP8 cache cannot run; the warning. Raises SettingsError."""
    said = warning(line.value(FLAG), gpu, model, attention, DETERMINISTIC in line.argv)
    if said:
        line.replace(FLAG, INSTEAD)
    return said
