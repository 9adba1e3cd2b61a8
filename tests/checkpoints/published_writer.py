# SPDX-License-Identifier: Apache-2.0
"""Write a checkpoint of the published table at toy size, and its reference `_dq` beside it.

Files are as on the hub: two shards with an index, config.json with the quantization section, and
hf_quant_config.json where the original has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file

from bench.checkpoints import tiny
from tests.checkpoints import fp8, int4, int4_words, nvfp4, real_tools
from tests.checkpoints.published import TOWER_LINEARS, Codec, Published
from tests.checkpoints.reference import (
    Tensors,
    copy_companions,
    unfuse_experts,
    write_json,
    write_reference,
)

_TOWER = re.compile(r"model\.(vision_tower|audio_tower|embed_vision|embed_audio)\b")
_AUDIO = re.compile(r"model\.(audio_tower|embed_audio)\b")
_MODELOPT, _TENSORS = nvfp4.FORMATS["modelopt"], nvfp4.FORMATS["ct_w4a4"]
_INT4 = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32, symmetric=True)


def write(published: Published, out: Path) -> Path:
    """Write `out` and `out` + "_dq", and return `out`."""
    text = tiny._MOE if published.text else {}
    src = tiny.build(published.kind, out.with_name(out.name + "_src"), text=text)
    config = json.loads((src / "config.json").read_text())
    tensors = unfuse_experts(load_file(src / "model.safetensors"))
    if not published.audio:
        tensors = {name: tensor for name, tensor in tensors.items() if not _AUDIO.match(name)}
        config["audio_config"] = None
    if published.head:
        tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"].clone()
    written = _encode(published, tensors)
    layers = len(config["text_config"]["layer_types"])
    prefix = "model.language_model.layers."
    for layer in range(layers if published.kv_scales else 0):
        for letter, value in (("k", 0.0117), ("v", 0.0083)):
            part = f"{letter}_proj." if published.kv_scales == "modelopt" else ""
            name = f"{prefix}{layer}.self_attn.{part}{letter}_scale"
            written[name] = torch.tensor(value)
    towers = sorted(
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if name.startswith("model.vision_tower") and tensor.dim() == 2
    )
    copy_companions(src, out)
    if published.section is not None:
        config["quantization_config"] = _expanded(published.section, layers, towers)
    write_json(out / "config.json", config)
    if published.hf_quant_config is not None:
        quantization = _expanded(published.hf_quant_config, layers, towers)
        content = {"producer": published.producer, "quantization": quantization}
        write_json(out / "hf_quant_config.json", content)
    save_file(written, out / "model.safetensors", metadata={"format": "pt"})
    write_reference(out, _dequantize)
    (out / "model.safetensors").unlink()
    _save_shards(int4.stack(written) if published.stacked else written, out)
    return out


def _codec(published: Published, module: str) -> Codec | None:
    if _TOWER.match(module):
        return None
    return next((c for pattern, c in published.codecs.items() if re.search(pattern, module)), None)


def _encode(published: Published, tensors: Tensors) -> Tensors:
    def in_nvfp4(module: str) -> bool:
        return "nvfp4" in (_codec(published, module) or "")

    amax = nvfp4._amax(tensors, in_nvfp4, shared=True)
    written: Tensors = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        matrix = name.endswith(".weight") and tensor.dim() == 2
        codec = _codec(published, module) if matrix else None
        if codec is None:
            written[name] = tensor
            continue
        leaves = _ENCODERS[codec](tensor, amax.get(module))
        written |= {f"{module}.{leaf}": value for leaf, value in leaves.items()}
    return written


Encoder = Callable[[torch.Tensor, Any], Tensors]


def _nvfp4(form: nvfp4.Format, activations: bool = True) -> Encoder:
    def encode(weight: torch.Tensor, amax: torch.Tensor) -> Tensors:
        leaves = nvfp4._pack(weight, amax, form)
        return {k: v for k, v in leaves.items() if activations or k != "input_scale"}

    return encode


def _fp8_tensor(weight: torch.Tensor, _: Any) -> Tensors:
    scale = weight.float().abs().amax() / fp8.MAX
    codes = (weight.float() / scale).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scale, "input_scale": torch.tensor(0.02)}


def _fp8_channel(weight: torch.Tensor, _: Any) -> Tensors:
    scale = (weight.float().abs().amax(1, keepdim=True) / fp8.MAX).to(torch.bfloat16)
    codes = (weight.float() / scale.float()).clamp(-fp8.MAX, fp8.MAX).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scale}


def _int4(weight: torch.Tensor, _: Any) -> Tensors:
    parts = weight.float().unflatten(-1, (-1, 32))
    scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), _INT4)
    scale = scale.to(torch.bfloat16)
    codes = quantize(weight.float(), scale.float(), zero, _INT4, dtype=torch.int8)
    return {
        "weight_packed": pack_to_int32(codes, 4),
        "weight_scale": scale,
        "weight_shape": torch.tensor(weight.shape),
    }


def _words(bits: int) -> Encoder:
    return lambda weight, _: int4_words.encode(weight, "gptq", 32, True, bits=bits)[0]


_ENCODERS: dict[str, Encoder] = {
    "modelopt-nvfp4": _nvfp4(_MODELOPT),
    "modelopt-nvfp4-weights": _nvfp4(_MODELOPT, activations=False),
    "modelopt-fp8": _fp8_tensor,
    "ct-nvfp4": _nvfp4(_TENSORS),
    "ct-int4": _int4,
    "ct-fp8": _fp8_channel,
    "words-4": _words(4),
    "words-8": _words(8),
}


def _dequantize(leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Dequantize by the tool of these tensors, in fp32."""
    if "qweight" in leaves:
        return int4_words.decode(leaves, "gptq", 1)
    if "weight_shape" in leaves:
        return int4.dequantize_module(leaves, symmetric=True)
    if "weight_global_scale" in leaves:
        return real_tools.compressed_tensors_dequantize(leaves)
    if "weight_scale_2" in leaves:
        return real_tools.modelopt_dequantize(leaves)
    return fp8.dequantize(leaves)


def _expanded(value: Any, layers: int, towers: list[str]) -> Any:
    """Write one name a layer for `{layer}`, and the names of towers, in lists and as keys."""
    if isinstance(value, list):
        names: list[Any] = []
        for item in value:
            names += _names(item, layers, towers) if isinstance(item, str) else [item]
        return names
    if isinstance(value, dict):
        return {
            name: _expanded(item, layers, towers)
            for key, item in value.items()
            for name in _names(key, layers, towers)
        }
    return value


def _names(name: str, layers: int, towers: list[str]) -> list[str]:
    if name == TOWER_LINEARS:
        return towers
    if "{layer}" in name:
        return [name.replace("{layer}", str(layer)) for layer in range(layers)]
    return [name]


def _save_shards(tensors: Tensors, out: Path) -> None:
    """Write two files and their index."""
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    places = {name: files[2 * i // len(tensors)] for i, name in enumerate(sorted(tensors))}
    for file in files:
        part = {name: tensors[name] for name, place in places.items() if place == file}
        save_file(part, out / file, metadata={"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    write_json(out / "model.safetensors.index.json", index)
