# SPDX-License-Identifier: Apache-2.0
"""Write checkpoints that mix NVFP4, INT4, FP8 and BF16 by compressed-tensors' own functions.

A config group has its own format, as in the published mixes. Beside each checkpoint stands its
reference, `_dq`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    apply_quantization_config,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.utils import calculate_qparams

from tests.checkpoints import int4, real_tools

# Experts in NVFP4, attention in FP8 with dynamic and with static activations, an MLP in INT4. The
# last layer and what no group names stay in BF16.
GROUPS = {
    "group_0": ("NVFP4", [r"re:.*\.experts\..*"]),
    "group_1": ("FP8_DYNAMIC", [r"re:.*self_attn\.(q|k|v)_proj$"]),
    "group_2": ("FP8", [r"re:.*self_attn\.o_proj$", r"re:.*mlp\.down_proj$"]),
    "group_3": ("W4A16", [r"re:.*mlp\.(gate|up)_proj$"]),
}
IGNORED = (*int4.IGNORED, r"re:.*layers\.5\..*")


def quantize_checkpoint(src: Path, out: Path) -> Path:
    """Write `out` and `out` + "_dq", and return `out`. src: of six layers"""
    model = real_tools.load(src)
    real_tools.split_experts(model)
    groups = {name: preset_name_to_scheme(*group) for name, group in GROUPS.items()}
    config = QuantizationConfig(config_groups=groups, ignore=list(IGNORED))
    apply_quantization_config(model, config)
    for stack in real_tools.stacks(model):
        real_tools.set_scales(stack)
    for module in model.modules():
        if hasattr(module, "weight_scale") and not hasattr(module, "weight_global_scale"):
            _set_scales(module)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)
    return real_tools.finish(src, out, _dequantize)


def _set_scales(linear: torch.nn.Module) -> None:
    args = linear.quantization_scheme.weights
    w = linear.weight.detach().float()
    parts = (
        w.flatten()[None]
        if args.strategy == "tensor"
        else w.unflatten(-1, (-1, args.group_size or w.shape[-1]))
    )
    scale, _ = calculate_qparams(parts.amin(-1), parts.amax(-1), args)
    linear.weight_scale.data.copy_(scale.reshape(linear.weight_scale.shape))
    if hasattr(linear, "input_scale"):
        linear.input_scale.data.fill_(0.02)


def _dequantize(leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if "weight_global_scale" in leaves:
        return real_tools.compressed_tensors_dequantize(leaves)
    if "weight_packed" in leaves:
        return int4.dequantize_module(leaves, symmetric=True)
    return leaves["weight"].float() * leaves["weight_scale"].float()
