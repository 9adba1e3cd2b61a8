# SPDX-License-Identifier: Apache-2.0
"""Count the weight formats of each class of layers: attention, MLP, experts and the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from sglang_gemma4_ext.checkpoint.expected import WEIGHT_LEAVES
from sglang_gemma4_ext.checkpoint.files import Tensor
from sglang_gemma4_ext.checkpoint.schemes import Quantization, Scheme

# Class of layers -> the modules in it. Embeddings and routers are never quantized.
_CLASSES = {
    "attention": re.compile(r"\.self_attn\.[qkvo]_proj$"),
    "mlp": re.compile(r"\.mlp\.\w+_proj$"),
    "experts": re.compile(r"\.experts\.(\d+\.)?\w+_proj$"),
    "router": re.compile(r"\.router\.proj$"),
    "per-layer": re.compile(r"per_layer_(input_gate|projection|model_projection)$"),
    "embeddings": re.compile(r"embed_tokens(_per_layer)?$"),
    "lm_head": re.compile(r"lm_head$"),
}
_PLAIN = ("BF16", "F16", "F32")
_LINEAR = ("attention", "mlp", "experts", "per-layer", "lm_head")


def count_formats(
    tensors: Mapping[str, Tensor], quantization: Quantization
) -> dict[str, dict[str, int]]:
    """Count the weights of each class by format, from a checkpoint's tensors.

    A weight that is not quantized counts under its dtype, also where the files declare a format
    that the tool did not apply. Towers are left out.
    """
    counts: dict[str, Counter[str]] = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf not in WEIGHT_LEAVES:
            module = name.removesuffix("_packed")  # all experts of a layer in one tensor
        kind = class_of(module)
        if kind is not None and "_tower." not in name:
            scheme = quantization.of(module) if kind in _LINEAR else None
            counts.setdefault(kind, Counter())[_words(scheme, tensor)] += 1
    return {kind: dict(counts[kind]) for kind in _CLASSES if kind in counts}


def class_of(module: str) -> str | None:
    """Return the class of a module with a weight matrix; None for norms and all others."""
    return next((kind for kind, pattern in _CLASSES.items() if pattern.search(module)), None)


def _words(scheme: Scheme | None, tensor: Tensor) -> str:
    if scheme is None or scheme.format == "plain" or tensor.dtype in _PLAIN:
        return tensor.dtype
    words = scheme.format if scheme.format in ("unknown", "bitsandbytes") else scheme.format.upper()
    if scheme.format == "int" and scheme.bits:
        words += str(scheme.bits)
    return f"{words} (group {scheme.group})" if scheme.group else words
