# SPDX-License-Identifier: Apache-2.0
"""Tell from a checkpoint's tensors how each layer is stored, whatever its config says of names.

Tools name the same layer in several ways, list it by patterns, and forget projections that a layer
does not have. The dtypes and shapes of the tensors are what is loaded, so they decide.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sglang_gemma4_ext.checkpoint.files import CheckpointError, Tensor, read_headers
from sglang_gemma4_ext.checkpoint.hub import local_folder
from sglang_gemma4_ext.checkpoint.model_family import TOWER_WEIGHT

Stored = Literal["plain", "nvfp4", "fp8", "int4-words", "int8-words", "unknown"]
Strategy = Literal["tensor", "channel", "block"]

_PLAIN = ("BF16", "F16", "F32", "F64")
_LAYER = re.compile(r"(?:.*\.)?layers\.(?P<layer>\d+)\.(?P<module>.+)")
# A linear of the language model outside its layers.
_OUTSIDE = "per_layer_model_projection"
# A stacked linear of SGLang's -> its parts in a checkpoint.
_PARTS = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "moe.experts": (
        "experts.0.gate_proj",
        "experts.0.up_proj",
        "experts.0.down_proj",
        "experts.gate_up_proj",
        "experts.down_proj",
    ),
}
# Scales of keys and values, which ModelOpt names after projections that a K = V layer lacks.
_KV_SCALES = ("k_scale", "v_scale")
# Rows and in-features of a block of FP8 weights.
FP8_BLOCK = 128
# Codes of four and of eight bits in a word of 32.
CODES_A_WORD = 8
BYTES_A_WORD = 4


class MixedPartsError(ValueError):
    """Report parts of one stacked linear that are stored differently; says which."""


@dataclass(frozen=True)
class Layer:
    """Describe how one linear, or all experts of a layer, are stored.

    scale: the last part of the name of the scales
    strategy: of FP8, what shares a scale
    zeros: of integers in words, whether there are zero points
    by_row: of integers in words, whether a word holds codes of neighbouring rows, as AWQ packs
    group: of integers in words, in-features that share a scale
    """

    stored: Stored
    scale: str = ""
    strategy: Strategy = "tensor"
    zeros: bool = False
    by_row: bool = False
    group: int = 0


PLAIN = Layer("plain")
UNKNOWN = Layer("unknown")


class Layers:
    """Look layers up by SGLang's names, in any prefix. tensors: by their names in a checkpoint."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._modules: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            module, _, leaf = name.rpartition(".")
            if TOWER_WEIGHT.match(name) or leaf in _KV_SCALES:
                continue
            if module.rpartition(".")[2] == _OUTSIDE:
                self._modules.setdefault(_OUTSIDE, {})[leaf] = tensor
            if match := _LAYER.fullmatch(module):
                module = f"layers.{match['layer']}.{match['module']}"
                self._modules.setdefault(module, {})[leaf] = tensor
                if leaf.startswith(("gate_up_proj", "down_proj")):  # a stack of experts
                    stack, _, rest = leaf.partition("_proj")
                    inner = self._modules.setdefault(f"{module}.{stack}_proj", {})
                    inner["weight" + rest] = tensor

    def of(self, prefix: str) -> Layer | None:
        """Return how a layer of the language model is stored; None if no tensor is known of it.

        prefix: SGLang's name, such as `language_model.layers.0.mlp.gate_up_proj`
        Raises MixedPartsError if a stacked linear's parts differ, all of them in known formats.
        """
        if prefix.rpartition(".")[2] == _OUTSIDE and _OUTSIDE in self._modules:
            return _describe(self._modules[_OUTSIDE])
        match = _LAYER.fullmatch(prefix)
        if match is None or "tower" in prefix:
            return None
        names = _PARTS.get(match["module"], (match["module"],))
        found = {
            name: _describe(self._modules[key])
            for name in names
            if (key := f"layers.{match['layer']}.{name}") in self._modules
        }
        kinds = _merged(set(found.values()))
        if len(kinds) > 1 and UNKNOWN in kinds:
            return UNKNOWN
        if len(kinds) > 1:
            said = ", ".join(f"{name} in {layer.stored}" for name, layer in found.items())
            raise MixedPartsError(
                f"{prefix}: its parts are stored in different formats ({said}), but are multiplied "
                "as one; quantize them alike"
            )
        return kinds.pop() if kinds else None


def _merged(kinds: set[Layer]) -> set[Layer]:
    """Join FP8 parts of which some have one scale for all, which suits every strategy."""
    others = {kind for kind in kinds if kind.strategy != "tensor"}
    alike = {(kind.stored, kind.scale) for kind in kinds}
    return others if len(others) == len(alike) == 1 else kinds


def _describe(leaves: Mapping[str, Tensor]) -> Layer:
    if "qweight" in leaves:
        return _words(leaves)
    weight = leaves.get("weight")
    if weight is None:
        return UNKNOWN
    if weight.dtype in _PLAIN:
        return PLAIN
    if weight.dtype == "U8" and "weight_scale_2" in leaves:
        return Layer("nvfp4", "weight_scale")
    scale = next((name for name in ("weight_scale_inv", "weight_scale") if name in leaves), None)
    if weight.dtype == "F8_E4M3" and scale is not None:
        strategy = _strategy(weight.shape, leaves[scale].shape)
        return Layer("fp8", scale, strategy) if strategy else UNKNOWN
    return UNKNOWN


def _strategy(weight: tuple[int, ...], scale: tuple[int, ...]) -> Strategy | None:
    """Tell what shares a scale, from the shapes of weights [.., N, K] and of their scales."""
    *stack, rows, k = weight
    inner = scale[len(stack) :] if stack and len(scale) > len(stack) else scale
    if inner in ((), (1,), (1, 1)):
        return "tensor"
    if inner in ((rows,), (rows, 1)):
        return "channel"
    down, across = -(-rows // FP8_BLOCK), -(-k // FP8_BLOCK)
    if inner in ((down, across), (down, 1, across, 1)):  # ModelOpt keeps the axes of a block
        return "block"
    return None


def _words(leaves: Mapping[str, Tensor]) -> Layer:
    """Describe a layer of GPTQ or AWQ: `qweight` of 32-bit words, `scales` [groups, rows].

    Zero points tell the bits of a code; AWQ has four.
    """
    words, scales = leaves["qweight"], leaves.get("scales")
    if words.dtype != "I32" or scales is None or len(words.shape) != 2 != len(scales.shape):
        return UNKNOWN
    groups, rows = scales.shape
    by_row = words.shape[1] != rows
    zeros = leaves.get("qzeros")
    eight = not by_row and zeros is not None and zeros.shape == (groups, rows // BYTES_A_WORD)
    a_word = BYTES_A_WORD if eight else CODES_A_WORD
    k = words.shape[0] if by_row else a_word * words.shape[0]
    held = words.shape == ((k, rows // a_word) if by_row else (k // a_word, rows))
    whole = zeros is None or zeros.shape == (groups, rows // a_word)
    if not held or not groups or k % groups or not whole:
        return UNKNOWN
    kind: Stored = "int8-words" if eight else "int4-words"
    return Layer(kind, "scales", "channel", "qzeros" in leaves, by_row, k // groups)


@functools.cache
def layers_of(path: str, revision: str | None = None) -> Layers | None:
    """Read the headers of a checkpoint; of a hub name not yet downloaded, from the hub.

    Returns None where neither can be read; SGLang then decides by the config's names.
    """
    folder = local_folder(path, revision)
    try:
        if folder is not None:
            return Layers(read_headers(folder))
        return _from_hub(path, revision)
    except (CheckpointError, OSError, ValueError):
        return None


def _from_hub(path: str, revision: str | None) -> Layers:
    """Read headers over HTTP, some kilobytes a file. Raises OSError or ValueError."""
    from huggingface_hub import get_safetensors_metadata

    found = get_safetensors_metadata(path, revision=revision)
    return Layers(
        {
            name: Tensor(tensor.dtype, tuple(tensor.shape))
            for file in found.files_metadata.values()
            for name, tensor in file.tensors.items()
        }
    )
