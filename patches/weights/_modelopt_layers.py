# SPDX-License-Identifier: Apache-2.0
"""Make the methods of ModelOpt's NVFP4 layers: linears and experts.

They subclass SGLang's own and keep their class names, by which SGLang's weight loaders recognize
the layouts.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from sglang_gemma4_ext.patches.weights import _layers as nvfp4
from sglang_gemma4_ext.patches.weights import _settle as settle

LINEAR, W13, W2 = nvfp4.MODELOPT_WEIGHTS


def method(layer: Any, prefix: str, config: Any) -> Any:
    """Return the method of an NVFP4 LinearBase or FusedMoE. config: a ModelOptFp4Config"""
    from sglang.srt.layers.moe.fused_moe_triton import FusedMoE

    experts = isinstance(layer, FusedMoE)
    result = moe_method()(config) if experts else linear_method()(config)
    result.layer_name = prefix
    return result


@functools.cache
def linear_method() -> type:
    """Return the class of a linear's method."""
    from sglang.srt.layers.quantization import modelopt_quant

    class ModelOptFp4LinearMethod(modelopt_quant.ModelOptFp4LinearMethod):
        """Serve W4A16_NVFP4 too: SGLang reads its stacked scales only under this name."""

        def create_weights(
            self, layer, input_size_per_partition, *args, weight_loader, **kwargs
        ) -> None:
            k = input_size_per_partition
            full_k = {LINEAR: layer.input_size}
            loader = nvfp4.checked(weight_loader, layer, self.layer_name, full_k)
            nvfp4.require_whole_blocks(self.layer_name, k)
            super().create_weights(layer, k, *args, weight_loader=loader, **kwargs)
            nvfp4.mark_unloaded(layer, LINEAR)

        def process_weights_after_loading(self, layer) -> None:
            nvfp4.finish(layer, LINEAR, self.layer_name, layer.logical_widths)
            settle.nvfp4(layer, LINEAR)

        def apply(self, layer, x, bias=None) -> torch.Tensor:
            return nvfp4.apply_linear(layer, LINEAR, x, bias)

    return ModelOptFp4LinearMethod


@functools.cache
def moe_method() -> type:
    """Return the class of the experts' method."""
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
            settle.nvfp4(layer, W13, W2)

        def apply(self, layer, dispatch_output) -> Any:
            activation = self.moe_runner_config.activation
            return nvfp4.apply_experts(layer, W13, W2, activation, dispatch_output)

    return ModelOptNvFp4FusedMoEMethod
