# SPDX-License-Identifier: Apache-2.0
"""INT4 copies of a tiny checkpoint, packed and described by compressed-tensors' own functions.

What llm-compressor adds to them (a linear for each expert, scales from the smallest and the largest
weight of a group) is done here. Beside each stands its reference, `_dq`, as the library itself
decompresses it, in fp32.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.lifecycle.forward import dequantize
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file

from tests.checkpoints.real_tools import finish, load, split_experts

IGNORED = ("lm_head", "re:.*router.*", "re:.*vision_tower.*", "re:.*audio_tower.*", "re:.*embed_")


def quantize_checkpoint(
    src: Path,
    out: Path,
    *,
    group: int | None = 32,
    symmetric: bool = True,
    ignore: Sequence[str] = IGNORED,
    stacked: bool = False,
    **arguments: Any,
) -> Path:
    """Write `out` (INT4) and `out` + "_dq" (its reference), and return `out`.

    group: weights that share a scale; None for one scale a row
    ignore: of modules left in BF16, as llm-compressor takes it
    stacked: write all experts of a layer as one tensor, as the most downloaded 26B-A4B has them
    arguments: further fields of QuantizationArgs, such as actorder
    """
    strategy = "channel" if group is None else "group"
    args = QuantizationArgs(
        num_bits=4,
        type="int",
        strategy=strategy,
        group_size=group,
        symmetric=symmetric,
        **arguments,
    )
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=args)}
    model = load(src)
    split_experts(model)
    config = QuantizationConfig(config_groups=groups, ignore=list(ignore))
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            _set_scales(module, args)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)
    finish(src, out, functools.partial(dequantize_module, symmetric=symmetric))
    if stacked:
        file = out / "model.safetensors"
        save_file(stack(load_file(file)), file, metadata={"format": "pt"})
    return out


def stack(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename `experts.3.up_proj.weight_packed` and its like to `experts.gate_up_proj_packed`."""
    result = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    experts: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        path, _, rest = name.partition(".experts.")
        if rest and not rest.endswith("_shape"):
            index, projection, leaf = rest.split(".")
            key = f"{path}.experts.{projection}{leaf.removeprefix('weight')}"
            experts.setdefault(key, {})[int(index)] = tensor
    whole = {key: torch.stack([by[i] for i in range(len(by))]) for key, by in experts.items()}
    for key, tensor in whole.items():
        if ".gate_proj_" in key:
            up = whole[key.replace(".gate_proj_", ".up_proj_")]
            joined = torch.cat((tensor, up), dim=1)
            result[key.replace(".gate_proj_", ".gate_up_proj_")] = joined
        elif ".down_proj_" in key:
            result[key] = tensor
    return result


def _set_scales(linear: torch.nn.Module, args: QuantizationArgs) -> None:
    """Set the scales that llm-compressor's minmax observer computes."""
    w = linear.weight.detach().float()
    parts = w.unflatten(-1, (-1, args.group_size or w.shape[-1]))
    scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), args)
    linear.weight_scale.data.copy_(scale)
    if not args.symmetric:
        linear.weight_zero_point.data.copy_(zero)


def dequantize_module(leaves: Mapping[str, torch.Tensor], symmetric: bool) -> torch.Tensor:
    """PackedQuantizationCompressor.decompress in fp32: by itself it computes in bf16."""
    shape, scale = torch.Size(leaves["weight_shape"].tolist()), leaves["weight_scale"]
    zero = None
    if not symmetric:
        of_zeros = torch.Size((shape[0], scale.shape[1]))
        zero = unpack_from_int32(leaves["weight_zero_point"], 4, of_zeros, packed_dim=0)
    codes = unpack_from_int32(leaves["weight_packed"], 4, shape)
    return dequantize(codes, scale.float(), zero, dtype=torch.float32)
