# SPDX-License-Identifier: Apache-2.0
"""Write checkpoints in the layouts of GPTQ, AWQ and AutoRound; references `_dq` beside them.

None of the three tools shares an environment with SGLang. Their layouts are packed here weight by
weight, from their definitions, with numpy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.reference import (
    copy_companions,
    unfuse_experts,
    write_json,
    write_reference,
)

# Column 8 j + _AWQ[i] is nibble i of word j.
_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)


def pack(
    values: np.ndarray, axis: int, order: tuple[int, ...] = tuple(range(8)), bits: int = 4
) -> torch.Tensor:
    """Pack codes along an axis to int32; code i of a word is value order[i] of its neighbours."""
    count = len(order)
    values = np.moveaxis(values.astype(np.uint64), axis, -1)
    words = np.zeros((*values.shape[:-1], values.shape[-1] // count), np.uint64)
    for index, place in enumerate(order):
        words |= values[..., place::count] << np.uint64(bits * index)
    words = np.moveaxis(words, -1, axis).astype(np.uint32).view(np.int32)
    return torch.from_numpy(np.ascontiguousarray(words))


def encode(
    weight: torch.Tensor, tool: str, group: int, symmetric: bool, version: int = 1, bits: int = 4
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the tensors of a weight [N, K], and its exact fp32 values.

    group: in-features that share a scale; -1 for all of a row
    version: of GPTQ's format; the first holds zero points less one
    bits: of a code, 4 or 8; AWQ has 4
    """
    rows, k = weight.shape
    size = k if group == -1 else group
    parts = weight.float().reshape(rows, -1, size)
    low, high = parts.amin(-1).clamp_max(0), parts.amax(-1).clamp_min(0)
    most = 2**bits - 1
    if symmetric:
        scale = torch.maximum(-low, high) / 2 ** (bits - 1)
        zero = torch.full_like(scale, 2 ** (bits - 1))
    else:
        scale = (high - low) / most
        zero = (-low / scale).round().clamp(1, most)
    scale = scale.half()
    codes = (parts / scale.float()[..., None] + zero[..., None]).round().clamp(0, most)
    exact = ((codes - zero[..., None]) * scale.float()[..., None]).reshape(rows, k)
    c, z = codes.reshape(rows, k).numpy().T, zero.numpy().T  # [K, N], [G, N]
    tensors = {"scales": scale.T.contiguous()}
    if tool == "awq":
        tensors |= {"qweight": pack(c, 1, _AWQ), "qzeros": pack(z, 1, _AWQ)}
    else:
        order = tuple(range(32 // bits))
        stored = z - 1 if version == 1 else z
        tensors |= {"qweight": pack(c, 0, order, bits), "qzeros": pack(stored, 1, order, bits)}
        tensors["g_idx"] = (torch.arange(k) // size).to(torch.int32)
    return tensors, exact


def quantize_checkpoint(
    src: Path,
    out: Path,
    *,
    tool: str,
    group: int = 32,
    symmetric: bool = True,
    version: int = 1,
    auto_round: bool = False,
    per_layer: bool = False,
    bits: int = 4,
) -> Path:
    """Write `out`, and return it. The attention of layer 5 and the router stay in BF16.

    tool: gptq or awq. auto_round: with AutoRound's config
    per_layer: quantize the linears of per-layer embeddings too, as in published E4B exports
    """
    copy_companions(src, out)
    tensors: dict[str, torch.Tensor] = {}
    plain = []
    for name, tensor in unfuse_experts(load_file(src / "model.safetensors")).items():
        module = name.removesuffix(".weight")
        linear = module.endswith("_proj") or (
            per_layer and module.endswith(("_gate", "per_layer_projection", "_model_projection"))
        )
        if not linear or "5.self_attn" in module:
            tensors[name] = tensor
            plain += [module] if module.endswith("_proj") else []
            continue
        found, _ = encode(tensor, tool, group, symmetric, version, bits)
        tensors |= {f"{module}.{leaf}": part for leaf, part in found.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    section = {**_section(tool, group, symmetric, version, plain), "bits": bits}
    if auto_round:
        section = {
            "quant_method": "auto-round",
            "bits": 4,
            "group_size": group,
            "sym": symmetric,
            "data_type": "int",
            "packing_format": f"auto_round:auto_{tool}",
            "block_name_to_quantize": "model.language_model.layers",
            "extra_config": {name: {"bits": 16, "data_type": "float"} for name in plain},
        }
    config = json.loads((src / "config.json").read_text())
    write_json(out / "config.json", {**config, "quantization_config": section})
    write_reference(out, lambda leaves: decode(leaves, tool, version))
    return out


def decode(leaves: Mapping[str, torch.Tensor], tool: str, version: int) -> torch.Tensor:
    """Read words code by code with numpy; GPTQ's codes may have eight bits."""
    scale = leaves["scales"].float().numpy()  # [G, N]
    bits = 32 * leaves["qzeros"].shape[1] // scale.shape[1]
    order = _AWQ if tool == "awq" else tuple(range(32 // bits))

    def codes_of(words: torch.Tensor, axis: int) -> np.ndarray:
        w = np.moveaxis(words.numpy().view(np.uint32), axis, -1)
        out = np.zeros((*w.shape[:-1], len(order) * w.shape[-1]), np.float32)
        for index, place in enumerate(order):
            out[..., place :: len(order)] = (w >> np.uint32(bits * index)) & (2**bits - 1)
        return np.moveaxis(out, -1, axis)

    codes = codes_of(leaves["qweight"], 1 if tool == "awq" else 0)
    one_less = 1 if tool == "gptq" and version == 1 else 0
    zeros = (codes_of(leaves["qzeros"], 1) + one_less) % 2**bits
    size = codes.shape[0] // scale.shape[0]
    full = (codes - zeros.repeat(size, 0)) * scale.repeat(size, 0)
    return torch.from_numpy(np.ascontiguousarray(full.T))


def _section(
    tool: str, group: int, symmetric: bool, version: int, plain: list[str]
) -> dict[str, Any]:
    if tool == "awq":
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group,
            "zero_point": not symmetric,
            "version": "gemm",
            "modules_to_not_convert": plain,
        }
    return {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": group,
        "desc_act": False,
        "sym": symmetric,
        "lm_head": False,
        "true_sequential": True,
        "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
        "dynamic": {rf"-:{name}": {} for name in plain},
        "meta": {"quantizer": ["gptqmodel:5.0.0"]},
    }
