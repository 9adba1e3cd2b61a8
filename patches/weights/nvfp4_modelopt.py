# SPDX-License-Identifier: Apache-2.0
"""Serve ModelOpt NVFP4 checkpoints exactly, weight-only, with a tensor scale for every row.

One pair of methods serves both quant_algos: NVFP4, whose activation scales stay unused, and
W4A16_NVFP4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.checkpoint import schemes
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.weights import _dispatch as checkpoint
from sglang_gemma4_ext.patches.weights import _layers as nvfp4
from sglang_gemma4_ext.patches.weights._modelopt_layers import linear_method, moe_method
from sglang_gemma4_ext.registry import Hook, Patch, Source

MODELOPT = "sglang.srt.layers.quantization.modelopt_quant"
CONFIG = f"{MODELOPT}.ModelOptFp4Config"
EXPERTS = f"{MODELOPT}.ModelOptNvFp4FusedMoEMethod"


def _get_quant_method(original: Callable[..., Any], config: Any, layer: Any, prefix: str) -> Any:
    """AROUND get_quant_method: give our methods to the layers that upstream quantizes."""
    if not config.is_checkpoint_nvfp4_serialized or not nvfp4.takes(layer):
        return original(config, layer, prefix)
    if config.is_awq:
        raise ValueError(
            "NVFP4_AWQ checkpoints scale their activations, which the exact NVFP4 path does not; "
            "export the model with plain NVFP4"
        )
    nvfp4.require_group_size("the ModelOpt quantization config", config.group_size)
    method = config._get_quant_method(layer, prefix, Linear=linear_method(), Moe=moe_method())
    if method is not None:
        method.layer_name = prefix
    return method


def _stands_down(ctx: Context) -> str | None:
    return checkpoint.stands_down(ctx, schemes.MODELOPT)


PATCH = Patch(
    name="nvfp4_modelopt",
    theme="weights",
    summary="ModelOpt NVFP4 checkpoints serve without NVFP4 kernels, exactly",
    why="without a GPU SGLang's MoE method cannot be constructed and its dense one cannot process "
    "weights; with one, stacked linears take the largest of their tensor scales and experts the "
    "gate's; --fp4-gemm-backend offers no exact reference",
    upstream="unreported",
    retire_when="--fp4-gemm-backend offers a dequantizing reference",
    retired=nvfp4.sglang_has_a_reference,
    hooks=(
        Hook(f"{CONFIG}.get_quant_method", "dca00d112e22", "around", _get_quant_method),
        Hook(f"{CONFIG}.get_supported_act_dtypes", "abd6f8bfd63b", "after", nvfp4.allow_fp32),
    ),
    relies_on=(
        Source(f"{MODELOPT}.ModelOptQuantConfig._get_quant_method", "ea13158d73cc"),
        Source(f"{MODELOPT}.ModelOptFp4LinearMethod.create_weights", "990d513f5764"),
        Source(f"{EXPERTS}.__init__", "d4e96f0544d2"),
        Source(f"{EXPERTS}.create_weights", "b9f7f98bdb0e"),
        Source(
            "sglang.srt.layers.moe.fused_moe_triton.layer.FusedMoE._weight_loader_impl",
            "fedef474ee3d",
        ),
    ),
    stands_down=_stands_down,
)
