# SPDX-License-Identifier: Apache-2.0
"""Serve ModelOpt's MIXED_PRECISION checkpoints: NVFP4, FP8 and BF16 layers in one model.

Each layer has the method that a checkpoint of its format alone would have. Its tensors decide, and
not the map of names: that map lacks projections which a layer does not have, and names experts and
fused linears otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.checkpoint.schemes import MODELOPT
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.weights import _fp8_layers as fp8
from sglang_gemma4_ext.patches.weights import _layers as nvfp4
from sglang_gemma4_ext.patches.weights import _modelopt_layers
from sglang_gemma4_ext.patches.weights._stored import (
    WEIGHT_UTILS,
    is_ours,
    name_checkpoint,
    plain_method,
    stored_layer,
)
from sglang_gemma4_ext.registry import Hook, Patch, Source

QUANT = "sglang.srt.layers.quantization.modelopt_quant"
CONFIG = f"{QUANT}.ModelOptMixedPrecisionConfig"
MODEL_CONFIG = "sglang.srt.configs.model_config.ModelConfig"


def _get_quant_method(original: Callable[..., Any], config: Any, layer: Any, prefix: str) -> Any:
    """AROUND get_quant_method: give our methods to NVFP4 and FP8 layers, none to plain ones."""
    stored = stored_layer(config, prefix) if is_ours(layer) else None
    if stored is None:
        return original(config, layer, prefix)
    if stored.stored == "plain":
        return plain_method(layer)
    if stored.stored == "nvfp4" and nvfp4.takes(layer):
        nvfp4.require_group_size(prefix, config.nvfp4_config.group_size)
        return _modelopt_layers.method(layer, prefix, config.nvfp4_config)
    if stored.stored == "fp8" and fp8.takes(layer, marlin=False):
        return fp8.method(layer, prefix, stored)
    return original(config, layer, prefix)


def _without_nvfp4(result: dict[str, Any] | None, *args: Any, **kwargs: Any) -> Any:
    """AFTER _parse_modelopt_quant_config: a mix without NVFP4 is a mix; SGLang says w4afp8."""
    if result is not None and result.get("quant_method") == "w4afp8":
        return {**result, "quant_method": "modelopt_mixed"}
    return result


def _stands_down(ctx: Context) -> str | None:
    if not ctx.settings.cpu and not ctx.gpu.is_target:
        return f"it is for NVIDIA GPUs of compute capability 8.0 to 9.x; here: {ctx.gpu}"
    if ctx.model is None:
        return None
    quantization = describe(ctx.model)
    if quantization.tool == MODELOPT and quantization.per_layer:
        return None
    return "the checkpoint is not one of ModelOpt with an algorithm for each layer"


def _retired() -> bool:
    return nvfp4.sglang_has_a_reference()


PATCH = Patch(
    name="modelopt_mixed",
    theme="weights",
    summary="ModelOpt MIXED_PRECISION checkpoints serve, each layer exactly as it is stored",
    why="SGLang's methods need kernels of their own and merge unequal scales of stacked linears. "
    "They find a layer's algorithm by names that K = V layers and experts lack. A mix without "
    "NVFP4 is taken for w4afp8",
    upstream="unreported",
    retire_when="--fp4-gemm-backend offers a dequantizing reference",
    retired=_retired,
    hooks=(
        Hook(f"{WEIGHT_UTILS}.get_quant_config", "6ac93e175067", "after", name_checkpoint),
        Hook(
            f"{MODEL_CONFIG}._parse_modelopt_quant_config", "3ca511b610ba", "after", _without_nvfp4
        ),
        Hook(f"{CONFIG}.get_quant_method", "c2ef05fe46d3", "around", _get_quant_method),
        Hook(f"{CONFIG}.get_supported_act_dtypes", "d8e4211cbf73", "after", nvfp4.allow_fp32),
    ),
    relies_on=(Source(f"{CONFIG}.from_config", "ba52348ce619"),),
    stands_down=_stands_down,
)
