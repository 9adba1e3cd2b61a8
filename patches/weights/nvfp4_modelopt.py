# SPDX-License-Identifier: Apache-2.0
"""Serve ModelOpt NVFP4 checkpoints exactly, weight-only, with a tensor scale for every row.

One pair of methods serves both quant_algos: NVFP4, whose activation scales stay unused, and
W4A16_NVFP4. The methods subclass SGLang's own and keep their class names, by which SGLang's weight
loaders recognize the layouts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.checkpoint import schemes
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.weights import _dispatch as checkpoint
from sglang_gemma4_ext.patches.weights import _layers as nvfp4
from sglang_gemma4_ext.registry import Hook, Patch, Source

MODELOPT = "sglang.srt.layers.quantization.modelopt_quant"
CONFIG = f"{MODELOPT}.ModelOptFp4Config"
EXPERTS = f"{MODELOPT}.ModelOptNvFp4FusedMoEMethod"

LINEAR, W13, W2 = nvfp4.MODELOPT_WEIGHTS


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
    method = config._get_quant_method(layer, prefix, Linear=_linear_method(), Moe=_moe_method())
    if method is not None:
        method.layer_name = prefix
    return method


def method(layer: Any, prefix: str, config: Any) -> Any:
    """Return the method of an NVFP4 LinearBase or FusedMoE. config: a ModelOptFp4Config"""
    from sglang.srt.layers.moe.fused_moe_triton import FusedMoE

    experts = isinstance(layer, FusedMoE)
    result = _moe_method()(config) if experts else _linear_method()(config)
    result.layer_name = prefix
    return result


@functools.cache
def _linear_method() -> type:
    from sglang.srt.layers.quantization import modelopt_quant

    class ModelOptFp4LinearMethod(modelopt_quant.ModelOptFp4LinearMethod):
        """Serve W4A16_NVFP4 too: SGLang reads its stacked scales only under this name."""

        def create_weights(self, layer, *args, weight_loader, **kwargs) -> None:
            full_k = {LINEAR: layer.input_size}
            loader = nvfp4.checked(weight_loader, layer, self.layer_name, full_k)
            nvfp4.require_whole_blocks(self.layer_name, kwargs["input_size_per_partition"])
            super().create_weights(layer, *args, weight_loader=loader, **kwargs)
            nvfp4.mark_unloaded(layer, LINEAR)

        def process_weights_after_loading(self, layer) -> None:
            nvfp4.finish(layer, LINEAR, self.layer_name, layer.logical_widths)

        def apply(self, layer, x, bias=None) -> torch.Tensor:
            return nvfp4.apply_linear(layer, LINEAR, x, bias)

    return ModelOptFp4LinearMethod


@functools.cache
def _moe_method() -> type:
    from sglang.srt.layers.quantization import modelopt_quant

    class ModelOptNvFp4FusedMoEMethod(modelopt_quant.ModelOptNvFp4FusedMoEMethod):
        load_up_proj_weight_first = False
        runner = None  # a direct kernel, in SGLang's terms: standard top-k, local ids

        def __init__(self, quant_config) -> None:
            # Upstream's refuses a device without NVFP4 kernels; its create_weights reads these.
            self.quant_config = quant_config
            self._lora_marlin = False
            self.enable_flashinfer_trtllm_moe = False
            self.use_flashinfer_trtllm_weight_layout = False

        def create_weights(self, *, layer, hidden_size, weight_loader, **kwargs) -> None:
            nvfp4.require_runnable_experts(layer)
            nvfp4.require_whole_blocks(layer.layer_name, kwargs["intermediate_size_per_partition"])
            full_k = {W13: hidden_size, W2: kwargs["moe_intermediate_size"]}
            loader = nvfp4.checked(weight_loader, layer, layer.layer_name, full_k)
            super().create_weights(layer, hidden_size=hidden_size, weight_loader=loader, **kwargs)
            del layer.w13_blockscale_swizzled, layer.w2_blockscale_swizzled
            for weight in (W13, W2):
                nvfp4.mark_unloaded(layer, weight)

        def create_moe_runner(self, layer, moe_runner_config) -> None:
            self.moe_runner_config = moe_runner_config

        def get_moe_runner_backend(self, layer) -> None:
            pass

        def process_weights_after_loading(self, layer) -> None:
            nvfp4.finish(layer, W13, layer.layer_name, [layer.w13_weight.shape[1] // 2] * 2)
            nvfp4.finish(layer, W2, layer.layer_name, [layer.w2_weight.shape[1]])

        def apply(self, layer, dispatch_output) -> Any:
            activation = self.moe_runner_config.activation
            return nvfp4.apply_experts(layer, W13, W2, activation, dispatch_output)

    return ModelOptNvFp4FusedMoEMethod


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
