# SPDX-License-Identifier: Apache-2.0
"""Write FP8 checkpoints, and mixes with NVFP4, as the tools do; references `_dq` beside them.

ModelOpt's and compressed-tensors' are written by those libraries. The `fp8` of transformers, with
scales for blocks of 128 x 128, is written here from its layout.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import real_tools
from tests.checkpoints.reference import (
    copy_companions,
    unfuse_experts,
    write_json,
    write_reference,
)

MAX, BLOCK = 448.0, 128


def dequantize(leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Multiply codes by scales per tensor, row or block, in fp32."""
    weight = leaves["weight"].float()
    scale = leaves.get("weight_scale_inv", leaves.get("weight_scale")).float()
    rows, k = weight.shape
    if scale.dim() == 4:  # ModelOpt keeps the axes of a block
        scale = scale[:, 0, :, 0]
    if scale.dim() == 2 and scale.shape[1] == -(-k // BLOCK) and scale.numel() not in (1, rows):
        wide = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        return weight * wide[:rows, :k]
    return weight * (scale if scale.numel() == 1 else scale.reshape(rows, 1))


def _of_either(leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if "weight_scale_2" in leaves:
        return real_tools.modelopt_dequantize(leaves)
    return dequantize(leaves)


def modelopt(src: Path, out: Path, *, mixed: bool = False) -> Path:
    """Write `out` with nvidia-modelopt: FP8 in all linears, or a mix, and return `out`.

    mixed: experts and MLPs in NVFP4, attention in FP8, the last layer's attention in BF16
    """
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    recipe = copy.deepcopy(mtq.NVFP4_MLP_ONLY_CFG if mixed else mtq.FP8_DEFAULT_CFG)
    if mixed:
        fp8 = {"num_bits": (4, 3), "axis": None}
        names = ("*self_attn*weight_quantizer", "*self_attn*_proj.input_quantizer")
        added = [{"quantizer_name": name, "cfg": dict(fp8)} for name in names]
        added.append({"quantizer_name": "*layers.5.self_attn*", "enable": False})
        recipe["quant_cfg"][1:1] = added
    model = mtq.quantize(real_tools.load(src), recipe, real_tools.calibrate)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=out)
    return real_tools.finish(src, out, _of_either)


def modelopt_without_nvfp4(src: Path, out: Path) -> Path:
    """Write `out` with nvidia-modelopt's MIXED_PRECISION, all of it FP8, and return `out`.

    Attention has a scale for each tensor, MLPs have scales for blocks of 128 x 128. The tool gives
    experts one scale each, though it declares blocks.
    """
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    recipe = copy.deepcopy(mtq.FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG)
    names = ("*self_attn*weight_quantizer", "*self_attn*_proj.input_quantizer")
    fp8 = {"num_bits": (4, 3), "axis": None}
    recipe["quant_cfg"] += [{"quantizer_name": name, "cfg": dict(fp8)} for name in names]
    model = mtq.quantize(real_tools.load(src), recipe, real_tools.calibrate)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=out)
    return real_tools.finish(src, out, dequantize)


def blocks(src: Path, out: Path, *, scales: str = "block") -> Path:
    """Write `out` as transformers' FineGrainedFP8 does, and return `out`.

    scales: `block`, or `tensor` for one scale a weight, as other exporters of `fp8` have
    """
    copy_companions(src, out)
    tensors: dict[str, torch.Tensor] = {}
    plain = []
    for name, tensor in unfuse_experts(load_file(src / "model.safetensors")).items():
        module = name.removesuffix(".weight")
        if not module.endswith("_proj") or "per_layer" in module or "layers.5." in module:
            tensors[name] = tensor
            if module.endswith("_proj"):
                plain.append(module)
            continue
        w = tensor.float()
        size = BLOCK if scales == "block" else max(w.shape)
        tall, wide = (-(-n // size) * size for n in w.shape)
        parts = torch.zeros(tall, wide)
        parts[: w.shape[0], : w.shape[1]] = w
        amax = parts.abs().reshape(tall // size, size, wide // size, size).amax((1, 3))
        scale = amax.clamp_min(1e-4) / MAX
        spread = scale.repeat_interleave(size, 0).repeat_interleave(size, 1)
        codes = (w / spread[: w.shape[0], : w.shape[1]]).to(torch.float8_e4m3fn)
        tensors[f"{module}.weight"] = codes
        tensors[f"{module}.weight_scale_inv"] = scale if scales == "block" else scale[0, 0].clone()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    section: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    if scales == "block":
        section["weight_block_size"] = [BLOCK, BLOCK]
    # As the tool lists them: router and towers in whole, and single linears by name.
    section["modules_to_not_convert"] = ["lm_head", "model.vision_tower", *plain]
    config = json.loads((src / "config.json").read_text())
    write_json(out / "config.json", {**config, "quantization_config": section})
    write_reference(out, dequantize)
    return out


def compressed_tensors(src: Path, out: Path, *, scheme: str = "FP8_DYNAMIC") -> Path:
    """Write `out` with compressed-tensors, and return `out`. scheme: FP8, FP8_DYNAMIC, FP8_BLOCK"""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        apply_quantization_config,
        preset_name_to_scheme,
    )

    model = real_tools.load(src)
    real_tools.split_experts(model)
    ignore = ["lm_head", "re:.*router.*", "re:.*embed_", "re:.*layers.5..*"]
    groups = {"group_0": preset_name_to_scheme(scheme, ["Linear"])}
    apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=ignore))
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            _set_scales(module)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)
    return real_tools.finish(src, out, dequantize)


def _set_scales(linear: torch.nn.Module) -> None:
    w = linear.weight.detach().float().abs()
    shape = linear.weight_scale.shape
    if linear.quantization_scheme.weights.strategy == "block":
        rows, k = w.shape
        padded = torch.zeros(shape[0] * BLOCK, shape[1] * BLOCK)
        padded[:rows, :k] = w
        amax = padded.reshape(shape[0], BLOCK, shape[1], BLOCK).amax((1, 3))
    else:
        amax = w.amax() if linear.weight_scale.numel() == 1 else w.amax(1, keepdim=True)
    linear.weight_scale.data.copy_((amax / MAX).reshape(shape))
    if hasattr(linear, "input_scale"):
        linear.input_scale.data.fill_(0.02)
