# SPDX-License-Identifier: Apache-2.0
"""Write the dequantized fp32 checkpoint beside an NVFP4 one, as transformers loads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
_SCALES = ("weight_scale", "weight_scale_inv", "scales")
_NOT_COMPANIONS = ("config.json", "hf_quant_config.json", "model.safetensors", "recipe.yaml")
_NOT_COMPANIONS += ("README.md", "make.py")


def write_reference(
    quantized: Path, dequantize: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
) -> Path:
    """Write `quantized` + "_dq" from the contents of `quantized`, and return it.

    dequantize: maps a quantized module's tensors, by leaf name, to its fp32 weight [N, K]
    """
    modules: dict[str, Tensors] = {}
    for name, tensor in load_file(quantized / "model.safetensors").items():
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = tensor
    plain: Tensors = {}
    for module, leaves in modules.items():
        if not leaves.keys().isdisjoint(_SCALES):
            plain[f"{module}.weight"] = dequantize(leaves)
        else:
            kept = leaves.keys() - {"k_scale", "v_scale"}
            plain.update({f"{module}.{leaf}": leaves[leaf].float() for leaf in kept})
    out = quantized.with_name(quantized.name + "_dq")
    copy_companions(quantized, out)
    save_file(fuse_experts(plain), out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((quantized / "config.json").read_text())
    config.pop("quantization_config", None)
    write_json(out / "config.json", {**config, "dtype": "float32"})
    return out


def unfuse_experts(tensors: Tensors) -> Tensors:
    """Split fused `gate_up_proj` [E, 2I, H] and `down_proj` [E, H, I] into one weight a linear."""
    result: Tensors = {}
    for name, tensor in tensors.items():
        prefix, _, leaf = name.rpartition(".")
        if leaf == "gate_up_proj":
            for i, both in enumerate(tensor):
                gate, up = both.chunk(2)
                result[f"{prefix}.{i}.gate_proj.weight"] = gate.contiguous()
                result[f"{prefix}.{i}.up_proj.weight"] = up.contiguous()
        elif leaf == "down_proj":
            result |= {f"{prefix}.{i}.down_proj.weight": w.clone() for i, w in enumerate(tensor)}
        else:
            result[name] = tensor
    return result


def fuse_experts(tensors: Tensors) -> Tensors:
    """Invert `unfuse_experts`."""
    result = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    experts = {name: tensor for name, tensor in tensors.items() if ".experts." in name}
    for prefix in sorted({name.partition(".experts.")[0] + ".experts" for name in experts}):
        if f"{prefix}.down_proj" in experts:
            result |= {name: t for name, t in experts.items() if name.startswith(prefix)}
            continue
        count = sum(n.startswith(f"{prefix}.") and n.endswith(".down_proj.weight") for n in experts)
        gate, up, down = (
            torch.stack([experts[f"{prefix}.{i}.{leaf}_proj.weight"] for i in range(count)])
            for leaf in ("gate", "up", "down")
        )
        result[f"{prefix}.gate_up_proj"] = torch.cat((gate, up), dim=1)
        result[f"{prefix}.down_proj"] = down
    return result


def copy_companions(src: Path, out: Path) -> None:
    """Copy tokenizer, template, processor and generation config; not weights and their configs."""
    out.mkdir(parents=True, exist_ok=True)
    for path in src.iterdir():
        if path.is_file() and path.name not in _NOT_COMPANIONS:
            shutil.copy(path, out / path.name)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
