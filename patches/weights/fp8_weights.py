# SPDX-License-Identifier: Apache-2.0
"""Serve FP8 checkpoints weight-only where SGLang's own path does not run.

It covers compressed-tensors `float-quantized`, ModelOpt's FP8, and the `fp8` of transformers, whose
scales belong to blocks of 128 x 128 or to tensors. On the CPU every layer is ours. On GPUs without
FP8 tensor cores experts are, and linears that Marlin does not take. On other GPUs SGLang quantizes
activations as the checkpoint says.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.weights import _dispatch as checkpoint
from sglang_gemma4_ext.patches.weights import _fp8_layers as fp8
from sglang_gemma4_ext.patches.weights import _layers
from sglang_gemma4_ext.patches.weights._stored import (
    WEIGHT_UTILS,
    is_ours,
    name_checkpoint,
    plain_method,
    stored_layer,
)
from sglang_gemma4_ext.registry import Hook, Patch, Source

QUANTIZATION = "sglang.srt.layers.quantization"
TENSORS = f"{QUANTIZATION}.compressed_tensors.compressed_tensors.CompressedTensorsConfig"
MODELOPT = f"{QUANTIZATION}.modelopt_quant.ModelOptFp8Config"
FP8 = f"{QUANTIZATION}.fp8.Fp8Config"
RUNNER = "sglang.srt.model_executor.model_runner.ModelRunner"
_EXPERTS = "sglang.srt.layers.moe.fused_moe_triton.layer.FusedMoE"


def _by_marlin(original: Callable[..., Any], config: Any, layer: Any, prefix: str) -> Any:
    """AROUND get_quant_method of formats that SGLang serves by Marlin on older GPUs."""
    return _method(original, config, layer, prefix, marlin=True)


def _without_marlin(original: Callable[..., Any], config: Any, layer: Any, prefix: str) -> Any:
    """AROUND get_quant_method of a format that SGLang refuses on older GPUs."""
    return _method(original, config, layer, prefix, marlin=False)


def _method(
    original: Callable[..., Any], config: Any, layer: Any, prefix: str, marlin: bool
) -> Any:
    stored = stored_layer(config, prefix) if is_ours(layer) else None
    if stored is not None and stored.stored == "plain":  # lists of names lack absent projections
        return plain_method(layer)
    if stored is None or stored.stored != "fp8" or not fp8.takes(layer, marlin):
        return original(config, layer, prefix)
    return fp8.method(layer, prefix, stored)


def _min_capability(original: Callable[..., int], *args: Any) -> int:
    """AROUND get_min_capability of ModelOpt's FP8, which asks for FP8 tensor cores."""
    return 80


def _any_rows(original: Callable[..., None], runner: Any) -> None:
    """AROUND check_quantized_moe_compatibility: our experts may end within a block of rows."""


def _stands_down(ctx: Context) -> str | None:
    if not ctx.settings.cpu and not ctx.gpu.is_target:
        return f"it is for NVIDIA GPUs of compute capability 8.0 to 9.x; here: {ctx.gpu}"
    if ctx.model is None:
        return None
    if not describe(ctx.model).declares("fp8"):
        return "the checkpoint holds no FP8 layers"
    with_cores = not ctx.settings.cpu and ctx.gpu.capability >= fp8.FP8_CAPABILITY
    if with_cores and checkpoint.leaves_fp8(ctx):
        return "SGLang multiplies FP8 on the tensor cores of this GPU"
    return None


def _retired() -> bool:
    from sglang.srt.layers.quantization.modelopt_quant import ModelOptFp8Config

    source = inspect.getsource(inspect.unwrap(ModelOptFp8Config.get_min_capability))
    return "return 89" not in source


PATCH = Patch(
    name="fp8_weights",
    theme="weights",
    summary="FP8 checkpoints serve weight-only on GPUs without FP8 tensor cores and on the CPU",
    why="below compute capability 8.9 SGLang's FP8 experts do not compile, ModelOpt's FP8 is "
    "refused, and so is a K that 128 does not divide; the CPU has no FP8 kernel",
    upstream="unreported",
    retire_when="SGLang serves ModelOpt's FP8 on compute capability 8.0",
    retired=_retired,
    hooks=(
        Hook(f"{WEIGHT_UTILS}.get_quant_config", "6ac93e175067", "after", name_checkpoint),
        Hook(f"{TENSORS}.get_quant_method", "977ef5f68293", "around", _by_marlin),
        Hook(f"{TENSORS}.get_supported_act_dtypes", "1bf6f868a2c2", "after", _layers.allow_fp32),
        Hook(f"{MODELOPT}.get_quant_method", "03282350e3b7", "around", _without_marlin),
        Hook(f"{MODELOPT}.get_supported_act_dtypes", "d8e4211cbf73", "after", _layers.allow_fp32),
        Hook(f"{MODELOPT}.get_min_capability", "883d07fbf81a", "around", _min_capability),
        Hook(f"{FP8}.get_quant_method", "6e5f25dddf78", "around", _by_marlin),
        Hook(f"{FP8}.get_supported_act_dtypes", "d8e4211cbf73", "after", _layers.allow_fp32),
        Hook(f"{RUNNER}.check_quantized_moe_compatibility", "a9f0381124e7", "around", _any_rows),
    ),
    relies_on=(
        Source("sglang.srt.layers.linear.ColumnParallelLinear.__init__", "f6b05b8f86e1"),
        Source(f"{_EXPERTS}._weight_loader_impl", "fedef474ee3d"),
    ),
    stands_down=_stands_down,
)
