# SPDX-License-Identifier: Apache-2.0
"""Load the NVFP4 demo as a transformers model in fp32, to measure it without a server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

from sglang_gemma4_ext.kernels.nvfp4_format import dequantize

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight$")


def load(
    folder: Path, packed: Callable[[torch.Tensor], torch.Tensor] = lambda codes: codes
) -> transformers.Gemma4ForConditionalGeneration:
    """Load the checkpoint of `export.nvfp4`, dequantized.

    packed: applied to each tensor of packed codes first; a test breaks it on purpose
    Raises RuntimeError if the file's tensors are not the model's.
    """
    settings = json.loads((folder / "config.json").read_text())
    settings.pop("quantization_config", None)
    # Both levels: the text model's dtype rounds the factor of its embeddings.
    settings["text_config"] = {**settings["text_config"], "dtype": "float32"}
    config = transformers.Gemma4Config(**{**settings, "dtype": "float32"})
    config._experts_implementation = config.text_config._experts_implementation = "grouped_mm"
    model = transformers.Gemma4ForConditionalGeneration(config).float().eval()
    stored = load_file(folder / "model.safetensors")
    weights = {}
    for name, tensor in stored.items():
        scale = stored.get(f"{name}_scale")
        if scale is not None:
            tensor = dequantize(packed(tensor), scale, stored[f"{name}_scale_2"], torch.float32)
        if not name.endswith((".weight_scale", ".weight_scale_2")):
            weights[name] = tensor.float()
    missing, unknown = model.load_state_dict(_fused(weights), strict=False)
    lost = [name for name in missing if name != "lm_head.weight"]
    if lost or unknown:
        raise RuntimeError(f"{folder} is not the demo: lacks {lost[:3]}, has {unknown[:3]}")
    model.tie_weights()
    return model


def _fused(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Join one linear an expert, as exporters write them, into transformers' 3-D tensors."""
    plain, experts = {}, {}
    for name, tensor in weights.items():
        found = _EXPERT.match(name)
        if found:
            prefix, number, part = found.groups()
            experts.setdefault(prefix, {})[int(number), part] = tensor
        else:
            plain[name] = tensor
    for prefix, parts in experts.items():
        count = 1 + max(number for number, _ in parts)
        both = [torch.cat((parts[n, "gate"], parts[n, "up"])) for n in range(count)]
        plain[f"{prefix}.gate_up_proj"] = torch.stack(both)
        plain[f"{prefix}.down_proj"] = torch.stack([parts[n, "down"] for n in range(count)])
    return plain
