# SPDX-License-Identifier: Apache-2.0
"""Keep FP8 keys and values away from attention that cannot read them.

SGLang's Triton attention does not compile for an E4M3 cache below compute capability 8.9. Triton
says "type fp8e4nv not supported". Ours reads such a cache from 8.0 on. So a cache that the
checkpoint declares, or that the user asks for, is served there too, unless a flag takes SGLang's
attention.
"""

from __future__ import annotations

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.quantization import declares_fp8_kv
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.plan.question import e4m3_since
from sglang_gemma4_ext.settings import Attention, SettingsError

FLAG = "--kv-cache-dtype"
INSTEAD = "bfloat16"
# SGLang's batch-invariant extend attention is another kernel, which we do not replace.
DETERMINISTIC = "--enable-deterministic-inference"


def sglangs_by(attention: Attention, deterministic: bool) -> str:
    """Name the flag that gives an E4M3 cache to SGLang's attention; empty where ours reads it."""
    if attention == "sglang":
        return "--gemma4-attention sglang"
    return DETERMINISTIC if deterministic else ""


def is_unreadable(gpu: Gpu, flag: str) -> bool:
    """Tell whether attention cannot read an E4M3 cache on this GPU. flag: of `sglangs_by`."""
    return gpu.vendor == "nvidia" and gpu.capability < e4m3_since(own_attention=not flag)


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
    Raises SettingsError where the user asked for E4M3 and the attention cannot read it.
    """
    flag = sglangs_by(attention, deterministic)
    if not is_unreadable(gpu, flag):
        return ""
    if asked == "fp8_e4m3" and flag:
        raise SettingsError(
            f"{FLAG} fp8_e4m3 with {flag} needs compute capability 8.9, and {gpu} has less: leave "
            "one of the two out"
        )
    if asked == "fp8_e4m3":
        raise SettingsError(
            f"{FLAG} fp8_e4m3 needs compute capability 8.0, and {gpu} has less: leave it out"
        )
    if asked not in (None, "auto") or model is None or not declares_fp8_kv(model):
        return ""
    without = f"; without {flag} it is served in one byte" if flag else ""
    return (
        f"the checkpoint declares an FP8 KV cache, which this attention cannot read on {gpu}: "
        f"{FLAG} {INSTEAD} is used, at two bytes a value instead of one{without}"
    )


def settle(line: CommandLine, gpu: Gpu, model: ModelInfo | None, attention: Attention) -> str:
    """Serve INSTEAD where a declared FP8 cache cannot run; the warning. Raises SettingsError."""
    said = warning(line.value(FLAG), gpu, model, attention, DETERMINISTIC in line.argv)
    if said:
        line.replace(FLAG, INSTEAD)
    return said
