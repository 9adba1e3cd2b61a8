# SPDX-License-Identifier: Apache-2.0
"""Write NVFP4 copies of a tiny checkpoint in the files of real exporters, with our packer.

Names, shapes and configs follow nvidia-modelopt 0.47 and llm-compressor 0.14 (see `real_tools`).
Every NVFP4 checkpoint has a reference beside it: the same weights dequantized to fp32, in the
layout that transformers loads. Its directory has the same name with `_dq` appended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from sglang_gemma4_ext.kernels import nvfp4_format
from tests.checkpoints.reference import (
    Tensors,
    copy_companions,
    unfuse_experts,
    write_json,
    write_reference,
)


@dataclass(frozen=True)
class Format:
    """Describe the files of one exporter."""

    modelopt: bool
    quantizes_activations: bool
    in_hf_quant_config: bool = False
    in_config: bool = True


FORMATS = {
    "modelopt": Format(True, True, in_hf_quant_config=True, in_config=False),
    "modelopt_config": Format(True, True),
    "modelopt_w4a16": Format(True, False, in_hf_quant_config=True),
    "ct_w4a16": Format(False, False),
    "ct_w4a4": Format(False, True),
}
# Linears that the server stacks; exporters give them one tensor scale.
STACK = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gu", "up_proj": "gu"}
_UNEQUAL = {"k_proj": 1.5, "v_proj": 2.25, "up_proj": 1.75}
_LINEAR = re.compile(r"layers\.(?P<layer>\d+)\.(?P<block>self_attn|mlp)\.\w+_proj$")
_TOWER = re.compile(r"model\.(vision_tower|audio_tower|embed_vision|embed_audio)\b")
_ACTIVATION_SCALE = 0.0025
_FP8_KV = {"dynamic": False, "num_bits": 8, "type": "float"}
_PRODUCER = {"name": "modelopt", "version": "0.47.0"}


def quantize_checkpoint(
    src: Path,
    out: Path,
    *,
    fmt: str,
    shared_scales: bool = True,
    quantize_attention: bool | Literal["sliding_only"] = True,
    kv_scales: bool = False,
    expert: bool = True,
) -> Path:
    """Write `out` (NVFP4) and `out` + "_dq" (its reference), and return `out`.

    src: a checkpoint of `bench.checkpoints.tiny.build`. Its MLPs are quantized; attention and
        experts are optional. Router, per-layer embeddings and towers are never quantized.
    fmt: one of FORMATS
    shared_scales: one tensor scale for q/k/v and one for gate/up; False makes them unequal
    kv_scales: add the FP8 KV-cache scales (ModelOpt formats only)
    Raises ValueError on an unknown fmt, or kv_scales with compressed-tensors.
    """
    if fmt not in FORMATS:
        raise ValueError(f"{fmt!r} is not one of {', '.join(FORMATS)}")
    form, src, out = FORMATS[fmt], Path(src), Path(out)
    if kv_scales and not form.modelopt:
        raise ValueError(f"kv_scales are written in ModelOpt formats only, not in {fmt!r}")
    config = json.loads((src / "config.json").read_text())
    layer_types = config.get("text_config", config)["layer_types"]

    def chosen(module: str) -> bool:
        if ".experts." in module:
            return expert
        match = _LINEAR.search(module)
        if match is None or _TOWER.match(module):
            return False
        if match["block"] == "mlp" or quantize_attention is True:
            return True
        sliding = layer_types[int(match["layer"])] == "sliding_attention"
        return quantize_attention == "sliding_only" and sliding

    tensors = load_file(src / "model.safetensors")
    tensors = unfuse_experts(tensors) if expert else tensors
    written: Tensors = {}
    ignored: dict[str, None] = {}
    scales = _amax(tensors, chosen, shared_scales)
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if module in scales:
            packed = _pack(tensor, scales[module], form)
            written.update({f"{module}.{leaf}": value for leaf, value in packed.items()})
            continue
        written[name] = tensor
        if ".experts." in name:
            ignored[name.rpartition(".")[0]] = None
        elif name.endswith(".weight") and tensor.dim() == 2 and "embed_tokens" not in name:
            ignored[module] = None
    if kv_scales:
        prefix = next(n for n in tensors if ".layers.0." in n).partition("layers.0.")[0]
        for i in range(len(layer_types)):
            written[f"{prefix}layers.{i}.self_attn.k_proj.k_scale"] = torch.tensor(0.0117)
            written[f"{prefix}layers.{i}.self_attn.v_proj.v_scale"] = torch.tensor(0.0083)

    copy_companions(src, out)
    save_file(written, out / "model.safetensors", metadata={"format": "pt"})
    if form.modelopt:
        quantization = _modelopt_config(form, _collapse(ignored), kv_scales)
    else:
        quantization = _compressed_tensors_config(form, ignored)
    if form.in_hf_quant_config:
        write_json(out / "hf_quant_config.json", _hf_quant_config(quantization))
    if form.in_config:
        config["quantization_config"] = quantization
    write_json(out / "config.json", config)
    write_reference(out, dequantize_module)
    return out


def dequantize_module(leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Dequantize one module's tensors, in either exporter's names, to fp32 [N, K]."""
    if "weight_packed" in leaves:
        packed, tensor_scale = leaves["weight_packed"], 1 / leaves["weight_global_scale"]
    else:
        packed, tensor_scale = leaves["weight"], leaves["weight_scale_2"]
    return nvfp4_format.dequantize(packed, leaves["weight_scale"], tensor_scale, torch.float32)


def _amax(tensors: Tensors, chosen: Callable[[str], bool], shared: bool) -> Tensors:
    """Return, by module, the largest magnitude that its tensor scale must cover."""
    modules = [n.removesuffix(".weight") for n in tensors if n.endswith(".weight")]
    own = {m: tensors[f"{m}.weight"].float().abs().amax() for m in modules if chosen(m)}
    if not shared:
        return {m: amax * _UNEQUAL.get(m.rpartition(".")[2], 1.0) for m, amax in own.items()}
    groups: dict[str, list[str]] = {}
    for module in own:
        parent, _, leaf = module.rpartition(".")
        groups.setdefault(f"{parent}.{STACK.get(leaf, leaf)}", []).append(module)
    return {m: max(own[peer] for peer in peers) for peers in groups.values() for m in peers}


def _pack(w: torch.Tensor, amax: torch.Tensor, form: Format) -> Tensors:
    """Pack one linear; return its tensors by leaf name."""
    tensor_scale = nvfp4_format.tensor_scale_for(amax)
    if form.modelopt:
        packed, block_scale = nvfp4_format.quantize(w, tensor_scale)
        leaves = {"weight": packed, "weight_scale": block_scale, "weight_scale_2": tensor_scale}
        activation = {"input_scale": torch.tensor(_ACTIVATION_SCALE)}
    else:
        divisor = (1 / tensor_scale).reshape(1)
        packed, block_scale = nvfp4_format.quantize(w, 1 / divisor)
        leaves = {"weight_packed": packed, "weight_scale": block_scale}
        leaves["weight_global_scale"] = divisor
        activation = {"input_global_scale": torch.tensor([1 / _ACTIVATION_SCALE])}
    return leaves | (activation if form.quantizes_activations else {})


def _collapse(ignored: Iterable[str]) -> list[str]:
    """Name unquantized modules as ModelOpt does: one wildcard for a whole block or tower."""
    names = {"lm_head"}
    for module in ignored:
        tower = _TOWER.match(module)
        block = re.match(r".*\.(self_attn|router)\b", module)
        found = tower or block
        names.add(f"{found[0]}*" if found else module)
    return sorted(names)


def _modelopt_config(form: Format, ignored: list[str], kv_scales: bool) -> dict[str, Any]:
    numbers = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
    group = {"input_activations": numbers} if form.quantizes_activations else {}
    return {
        "config_groups": {"group_0": {**group, "weights": numbers, "targets": ["Linear"]}},
        "ignore": ignored,
        "quant_algo": "NVFP4" if form.quantizes_activations else "W4A16_NVFP4",
        **({"kv_cache_scheme": _FP8_KV} if kv_scales else {}),
        "producer": _PRODUCER,
        "quant_method": "modelopt",
    }


def _hf_quant_config(quantization: dict[str, Any]) -> dict[str, Any]:
    algorithm = {
        "quant_algo": quantization["quant_algo"],
        "kv_cache_quant_algo": "FP8" if "kv_cache_scheme" in quantization else None,
        "group_size": 16,
        "exclude_modules": quantization["ignore"],
    }
    return {"producer": _PRODUCER, "quantization": algorithm}


def _compressed_tensors_config(form: Format, ignored: Iterable[str]) -> dict[str, Any]:
    weights = {
        "actorder": None, "block_structure": None, "dynamic": False, "group_size": 16,
        "num_bits": 4, "observer": "memoryless_minmax", "observer_kwargs": {},
        "scale_dtype": "torch.float8_e4m3fn", "strategy": "tensor_group", "symmetric": True,
        "type": "float", "zp_dtype": None,
    }  # fmt: skip
    activations = {**weights, "dynamic": "local", "observer": "static_minmax"}
    group = {
        "format": "nvfp4-pack-quantized",
        "input_activations": activations if form.quantizes_activations else None,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": weights,
    }
    return {
        "config_groups": {"group_0": group},
        "format": "nvfp4-pack-quantized",
        "global_compression_ratio": None,
        "ignore": [*ignored, "lm_head"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.18.0",
    }
