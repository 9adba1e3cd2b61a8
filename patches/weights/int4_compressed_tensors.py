# SPDX-License-Identifier: Apache-2.0
"""Serve compressed-tensors INT4 checkpoints (`pack-quantized`, W4A16) where Marlin cannot.

Marlin refuses experts with Gemma's gelu, and linears whose K is not a multiple of 128, as in the
26B-A4B. The linear scheme subclasses SGLang's own and keeps its class name, by which weight loaders
recognize the layout. The experts' scheme stores a row of codes as the checkpoint does, where
SGLang's transposes it for Marlin.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.checkpoint.schemes import COMPRESSED_TENSORS
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.weights import _int4_layers as int4
from sglang_gemma4_ext.patches.weights import _layers
from sglang_gemma4_ext.patches.weights import _settle as settle
from sglang_gemma4_ext.registry import Hook, Patch, Source

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs

QUANTIZATION = "sglang.srt.layers.quantization.compressed_tensors"
CONFIG = f"{QUANTIZATION}.compressed_tensors.CompressedTensorsConfig"
SCHEMES = f"{QUANTIZATION}.schemes"


def _get_quant_method(original: Callable[..., Any], config: Any, layer: Any, prefix: str) -> Any:
    """AROUND get_quant_method: give our schemes to INT4 layers that Marlin cannot serve."""
    from sglang.srt.layers.linear import LinearBase
    from sglang.srt.layers.moe.fused_moe_triton import FusedMoE
    from sglang.srt.layers.quantization.compressed_tensors import compressed_tensors

    names: dict[type, list[str]] = {
        LinearBase: [prefix],
        FusedMoE: [f"{prefix}.0.{p}_proj" for p in _EXPERT],
    }
    kind = next((kind for kind in names if isinstance(layer, kind)), None)
    if kind is None or config.linear_fp8_config is not None:
        return original(config, layer, prefix)
    config._add_fused_moe_to_target_scheme_map()
    found = [_weights(config.get_scheme_dict(layer, name)) for name in names[kind]]
    args = found[0] if found == found[:1] * len(found) else None
    if args is None or not int4.is_int4(args) or not int4.takes(layer, args.group_size):
        return original(config, layer, prefix)
    if kind is LinearBase:
        layer.scheme = _linear()(prefix, args)
        return compressed_tensors.CompressedTensorsLinearMethod(config)
    _layers.require_runnable_experts(layer)
    layer.scheme = _experts()(args)
    return compressed_tensors.CompressedTensorsFusedMoEMethod(config)


_EXPERT = ("gate", "up", "down")


def _weights(parts: dict[str, Any] | None) -> QuantizationArgs | None:
    """Return the weights' part of a group; None if activations are quantized as well."""
    return parts["weights"] if parts and parts["input_activations"] is None else None


@functools.cache
def _linear() -> type:
    from sglang.srt.layers.quantization.compressed_tensors import schemes

    class CompressedTensorsWNA16(schemes.CompressedTensorsWNA16):
        def __init__(self, layer_name: str, args: QuantizationArgs) -> None:
            super().__init__(
                args.strategy, args.num_bits, args.group_size, args.symmetric, args.actorder
            )
            self.layer_name, self.args = layer_name, args

        def create_weights(self, layer, *, input_size, weight_loader, **kwargs) -> None:
            share = kwargs["input_size_per_partition"]
            int4.require_servable(self.layer_name, self.args, input_size, share)
            groups = input_size // (self.args.group_size or input_size)
            stored = int4.expected({int4.LINEAR: (input_size, groups)}, not self.symmetric)
            loader = _layers.recorded(weight_loader, layer, self.layer_name, stored)
            super().create_weights(layer, input_size=input_size, weight_loader=loader, **kwargs)
            layer.output_widths = list(kwargs["output_partition_sizes"])
            int4.mark_unloaded(layer, int4.LINEAR)

        def process_weights_after_loading(self, layer) -> None:
            int4.finish(layer, int4.LINEAR, self.layer_name, layer.output_widths)
            settle.int4(layer, int4.LINEAR)

        def apply_weights(self, layer, x, bias=None) -> torch.Tensor:
            return int4.apply_linear(layer, x, bias)

    return CompressedTensorsWNA16


@functools.cache
def _experts() -> type:
    from sglang.srt.layers.quantization.compressed_tensors import schemes

    class CompressedTensorsInt4Experts(schemes.CompressedTensorsMoEScheme):
        """Keep the checkpoint's layout: SGLang's loader transposes by the scheme's name."""

        def __init__(self, args: QuantizationArgs) -> None:
            self.args = args

        @classmethod
        def get_min_capability(cls) -> int:
            return 80

        def create_weights(self, layer, num_experts, hidden_size, **kwargs) -> None:
            _create_experts(layer, self.args, num_experts, hidden_size, kwargs)

        def create_moe_runner(self, layer, moe_runner_config) -> None:
            self.moe_runner_config = moe_runner_config

        def process_weights_after_loading(self, layer) -> None:
            for weight in (int4.W13, int4.W2):
                rows = getattr(layer, weight.packed).shape[1]
                int4.finish(layer, weight, layer.layer_name, [rows])
            settle.int4(layer, int4.W13, int4.W2)

        def apply_weights(self, layer, dispatch_output) -> Any:
            return int4.apply_experts(layer, self.moe_runner_config.activation, dispatch_output)

    return CompressedTensorsInt4Experts


def _strategy(args: QuantizationArgs) -> str:
    """Name the layout of scales and zero points for SGLang's loader."""
    return "channel" if args.strategy == "channel" else "group"


def _create_experts(
    layer: Any, args: QuantizationArgs, num_experts: int, hidden: int, given: dict[str, Any]
) -> None:
    """Register the parameters of stacked experts, in the checkpoint's own layout.

    `weight_shape`, whose form differs between checkpoints, is not needed: its tensors are skipped.
    """
    from sglang.srt.utils import set_weight_attrs

    share, inner = given.pop("intermediate_size_per_partition"), given["moe_intermediate_size"]
    dtype, where = given.pop("params_dtype"), layer.layer_name
    int4.require_servable(where, args, hidden, hidden)
    int4.require_servable(where, args, inner, share)

    def groups(k: int) -> int:
        return k // (args.group_size or k)

    stored = {int4.W13: (hidden, groups(hidden)), int4.W2: (inner, groups(inner))}
    loader = _layers.recorded(
        given["weight_loader"], layer, where, int4.expected(stored, not args.symmetric)
    )
    attributes = {**given, "weight_loader": loader, "quant_method": _strategy(args)}
    for weight, rows, k in ((int4.W13, 2 * share, hidden), (int4.W2, hidden, share)):
        tensors = {
            weight.packed: torch.empty(num_experts, rows, k // 8, dtype=torch.int32),
            weight.scale: torch.empty(num_experts, rows, groups(k), dtype=dtype),
        }
        if not args.symmetric:
            words = torch.empty(num_experts, rows // 8, groups(k), dtype=torch.int32)
            tensors[weight.zero] = words
        for name, tensor in tensors.items():
            parameter = torch.nn.Parameter(tensor, requires_grad=False)
            layer.register_parameter(name, parameter)
            set_weight_attrs(parameter, attributes)
        int4.mark_unloaded(layer, weight)


def _stands_down(ctx: Context) -> str | None:
    if not ctx.settings.cpu and not ctx.gpu.is_target:
        return f"it is for NVIDIA GPUs of compute capability 8.0 to 9.x; here: {ctx.gpu}"
    if ctx.model is None:
        return None
    quantization = describe(ctx.model)
    int4_declared = any(s.format == "int" and s.bits == 4 for s in quantization.schemes)
    if quantization.tool == COMPRESSED_TENSORS and int4_declared:
        return None
    return "the checkpoint is not an INT4 one of compressed-tensors"


def _retired() -> bool:
    from sglang.srt.layers.quantization import marlin_utils

    return "gelu" in inspect.getsource(marlin_utils.check_moe_marlin_supports_layer)


PATCH = Patch(
    name="int4_compressed_tensors",
    theme="weights",
    summary="compressed-tensors INT4 checkpoints serve, experts with gelu included",
    why="Marlin refuses gelu experts and a K that 128 does not divide; without a GPU the choice "
    "of a scheme fails in torch.cuda",
    upstream="https://github.com/sgl-project/sglang/pull/25105",
    retire_when="Marlin takes experts with gelu and every K of Gemma 4",
    retired=_retired,
    hooks=(
        Hook(f"{CONFIG}.get_quant_method", "977ef5f68293", "around", _get_quant_method),
        Hook(f"{CONFIG}.get_supported_act_dtypes", "1bf6f868a2c2", "after", _layers.allow_fp32),
    ),
    relies_on=(
        Source(f"{CONFIG}.get_scheme_dict", "664f929a0f12"),
        Source(f"{SCHEMES}.CompressedTensorsWNA16.create_weights", "d7e011293c29"),
        Source(
            "sglang.srt.layers.moe.fused_moe_triton.layer.FusedMoE._weight_loader_impl",
            "fedef474ee3d",
        ),
    ),
    stands_down=_stands_down,
)
