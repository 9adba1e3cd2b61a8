# SPDX-License-Identifier: Apache-2.0
"""Serve compressed-tensors NVFP4 checkpoints exactly, with a tensor scale for every row.

This covers `nvfp4-pack-quantized` with or without quantized activations: W4A4 is served
weight-only, as SGLang does on GPUs before Blackwell. The schemes subclass SGLang's own and keep
their class names, by which SGLang's weight loaders recognize the layouts.
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
from sglang_gemma4_ext.patches.weights import _settle as settle
from sglang_gemma4_ext.registry import Hook, Patch, Source

QUANTIZATION = "sglang.srt.layers.quantization.compressed_tensors"
CONFIG = f"{QUANTIZATION}.compressed_tensors.CompressedTensorsConfig"
SCHEMES = f"{QUANTIZATION}.schemes"

LINEAR, W13, W2 = nvfp4.COMPRESSED_TENSORS_WEIGHTS


def _linear_scheme(
    original: Callable[..., Any],
    config: Any,
    layer: Any,
    layer_name: str | None = None,
    matched_target: str | None = None,
) -> Any:
    """AROUND get_linear_scheme, which asks the GPU before it chooses."""
    parts = config.get_scheme_dict(layer, layer_name, matched_target)
    if not _is_nvfp4(layer_name, parts) or not nvfp4.takes(layer):
        return original(config, layer, layer_name, matched_target)
    return _linear()(layer_name, has_input_global_scale=parts["input_activations"] is not None)


def _moe_scheme(
    original: Callable[..., Any], config: Any, layer: Any, layer_name: str | None = None
) -> Any:
    """AROUND get_moe_scheme. All experts of a layer are alike, so the first one decides."""
    config._add_fused_moe_to_target_scheme_map()
    names = [f"{layer_name}.0.{leaf}" for leaf in ("gate_proj", "up_proj", "down_proj")]
    parts = [config.get_scheme_dict(layer, name) for name in names]
    alike = parts == parts[:1] * 3
    if not alike or not _is_nvfp4(layer_name, parts[0]) or not nvfp4.takes(layer):
        return original(config, layer, layer_name)
    nvfp4.require_runnable_experts(layer)
    return _experts()(has_input_global_scale=parts[0]["input_activations"] is not None)


def _is_nvfp4(layer_name: str | None, parts: dict[str, Any] | None) -> bool:
    """Return whether a group's weights are NVFP4. Raises ValueError on another group size."""
    weights = parts and parts["weights"]
    if not weights or weights.num_bits != 4 or weights.strategy != "tensor_group":
        return False
    nvfp4.require_group_size(str(layer_name), weights.group_size)
    return weights.type == "float"


@functools.cache
def _linear() -> type:
    from sglang.srt.layers.quantization.compressed_tensors import schemes

    class CompressedTensorsW4A16Fp4(schemes.CompressedTensorsW4A16Fp4):
        def __init__(self, layer_name, has_input_global_scale) -> None:
            super().__init__(has_input_global_scale)
            self.layer_name = layer_name

        def create_weights(self, layer, *, input_size, weight_loader, **kwargs) -> None:
            loader = nvfp4.checked(weight_loader, layer, self.layer_name, {LINEAR: input_size})
            nvfp4.require_whole_blocks(self.layer_name, kwargs["input_size_per_partition"])
            super().create_weights(layer, weight_loader=loader, **kwargs)
            nvfp4.mark_unloaded(layer, LINEAR)

        def process_weights_after_loading(self, layer) -> None:
            nvfp4.finish(layer, LINEAR, self.layer_name, layer.logical_widths)
            settle.nvfp4(layer, LINEAR)

        def apply_weights(self, layer, x, bias=None) -> torch.Tensor:
            return nvfp4.apply_linear(layer, LINEAR, x, bias)

    return CompressedTensorsW4A16Fp4


@functools.cache
def _experts() -> type:
    from sglang.srt.layers.quantization.compressed_tensors import schemes

    class CompressedTensorsW4A16Nvfp4MoE(schemes.CompressedTensorsW4A16Nvfp4MoE):
        def create_weights(self, layer, num_experts, hidden_size, **kwargs) -> None:
            nvfp4.require_whole_blocks(layer.layer_name, kwargs["intermediate_size_per_partition"])
            full_k = {W13: hidden_size, W2: kwargs["moe_intermediate_size"]}
            kwargs["weight_loader"] = nvfp4.checked(
                kwargs["weight_loader"], layer, layer.layer_name, full_k
            )
            super().create_weights(layer, num_experts, hidden_size, **kwargs)
            for weight in (W13, W2):
                nvfp4.mark_unloaded(layer, weight)

        def create_moe_runner(self, layer, moe_runner_config) -> None:
            self.moe_runner_config = moe_runner_config

        def process_weights_after_loading(self, layer) -> None:
            nvfp4.finish(layer, W13, layer.layer_name, [layer.w13_weight_packed.shape[1] // 2] * 2)
            nvfp4.finish(layer, W2, layer.layer_name, [layer.w2_weight_packed.shape[1]])
            settle.nvfp4(layer, W13, W2)

        def apply_weights(self, layer, dispatch_output) -> Any:
            activation = self.moe_runner_config.activation
            return nvfp4.apply_experts(layer, W13, W2, activation, dispatch_output)

    return CompressedTensorsW4A16Nvfp4MoE


def _stands_down(ctx: Context) -> str | None:
    return checkpoint.stands_down(ctx, schemes.COMPRESSED_TENSORS)


PATCH = Patch(
    name="nvfp4_compressed_tensors",
    theme="weights",
    summary="compressed-tensors NVFP4 checkpoints serve without NVFP4 kernels, exactly",
    why="without a GPU the choice of a scheme fails in torch.cuda; with one, stacked linears with "
    "unequal tensor scales are refused; --fp4-gemm-backend offers no exact reference",
    upstream="unreported",
    retire_when="--fp4-gemm-backend offers a dequantizing reference",
    retired=nvfp4.sglang_has_a_reference,
    hooks=(
        Hook(f"{CONFIG}.get_linear_scheme", "c898ae29c89b", "around", _linear_scheme),
        Hook(f"{CONFIG}.get_moe_scheme", "39d9a186a707", "around", _moe_scheme),
        Hook(f"{CONFIG}.get_supported_act_dtypes", "1bf6f868a2c2", "after", nvfp4.allow_fp32),
    ),
    relies_on=(
        Source(f"{CONFIG}.get_scheme_dict", "664f929a0f12"),
        Source(f"{SCHEMES}.CompressedTensorsW4A16Fp4.create_weights", "c20c01b2bd62"),
        Source(f"{SCHEMES}.CompressedTensorsW4A16Nvfp4MoE.create_weights", "180a20a52c56"),
        Source(
            "sglang.srt.layers.moe.fused_moe_triton.layer.FusedMoE._weight_loader_impl",
            "fedef474ee3d",
        ),
    ),
    stands_down=_stands_down,
)
