# SPDX-License-Identifier: Apache-2.0
"""Name the checkpoint's tensors that belong into a parameter of SGLang's Gemma 4 classes."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal

Need = Literal["needed", "optional", "unknown"]

_STACKED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_EXPERTS = re.compile(r"(.*)\.moe\.experts\.(w13|w2)_(.+)")
_EXPERT_LEAVES = {"w13": ("gate_proj", "up_proj"), "w2": ("down_proj",)}
_EXPERT_STACKS = {"w13": "gate_up_proj", "w2": "down_proj"}
_LAYER = re.compile(r"layers\.(\d+)\.")
# Parameters that a checkpoint always provides, in the formats that this package knows.
_NEEDED = re.compile(
    r"(w13_|w2_)?(weight|weight_packed|qweight|weight_scale|weight_scale_2|weight_scale_inv"
    r"|weight_global_scale|scales|qzeros)|layer_scalar|scale|per_expert_scale|token_ordering"
)
# Parameters with a working default: static scales of activations and keys, shapes, permutations.
_OPTIONAL = re.compile(
    r"(w13_|w2_)?(input_scale|input_global_scale|weight_shape|g_idx|weight_g_idx|"
    r"(weight_)?zero_points?|g_idx_sort_indices|weight_g_idx_sort_indices)|[qkv]_scale"
    r"|(input|output)_(min|max)"
)


def need_of(parameter: str) -> Need:
    """Return whether a checkpoint must provide a parameter or persistent buffer of this name."""
    leaf = parameter.rpartition(".")[2]
    if _NEEDED.fullmatch(leaf):
        return "needed"
    return "optional" if _OPTIONAL.fullmatch(leaf) else "unknown"


def checkpoint_name(parameter: str) -> str:
    """Return the name in a checkpoint of what SGLang's classes call `parameter`."""
    if parameter.startswith(("lm_head.", "model.", "pre_projection.", "post_projection.")):
        name = parameter
    elif parameter.startswith(("centroids.", "token_ordering")):
        name = f"masked_embedding.{parameter}"
    else:
        name = f"model.{parameter}"
    return name.replace(".moe.per_expert_scale", ".router.per_expert_scale")


def missing_names(parameter: str, writers: Collection[str], config: Any, experts: int) -> list[str]:
    """Return the tensors that an incomplete parameter lacks; none if it needs no more.

    writers: the tensors that were written to it.
    config: the language model's configuration; an assistant's shares the keys of all layers.
    experts: how many of them the parameter holds, if it holds experts.
    """
    path, _, leaf = parameter.rpartition(".")
    layer, _, module = path.rpartition(".")
    if match := _EXPERTS.fullmatch(parameter):
        return _missing_experts(match, writers, experts)
    parts = _STACKED.get(module)
    if parts is None:
        return [] if _of_keys(module, layer, config) else [checkpoint_name(parameter)]
    found = {part for part in parts if any(f".{part}." in name for name in writers)}
    wanted = _wanted(parts, parameter, config)
    lacking = [part for part in wanted if part not in found]
    if not lacking:
        return [] if len(wanted) < len(parts) else [checkpoint_name(parameter)]
    return [checkpoint_name(f"{layer}.{part}.{leaf}") for part in lacking]


def _wanted(parts: tuple[str, ...], parameter: str, config: Any) -> tuple[str, ...]:
    match = _LAYER.search(parameter)
    if "q_proj" not in parts or match is None:
        return parts
    if has_no_keys(int(match[1]), config):
        return ("q_proj",)
    return ("q_proj", "k_proj") if k_is_v(int(match[1]), config) else parts


def _of_keys(module: str, path: str, config: Any) -> bool:
    """Tell whether a module is the norm of keys that its layer does not have."""
    match = _LAYER.search(path + ".")
    return module == "k_norm" and match is not None and has_no_keys(int(match[1]), config)


def has_no_keys(layer: int, config: Any) -> bool:
    """Tell whether a layer reads another layer's keys."""
    return layer >= config.num_hidden_layers - (getattr(config, "num_kv_shared_layers", 0) or 0)


def k_is_v(layer: int, config: Any) -> bool:
    """Tell whether a layer's values are its keys."""
    return bool(getattr(config, "attention_k_eq_v", False)) and (
        config.layer_types[layer] == "full_attention"
    )


def _missing_experts(match: re.Match[str], writers: Collection[str], experts: int) -> list[str]:
    layer, stack, leaf = match.groups()
    path = checkpoint_name(f"{layer}.experts")
    leaves = _EXPERT_LEAVES[stack]
    held = {name.partition(".experts.")[2] for name in writers}
    each = [f"{expert}.{part}.{leaf}" for expert in range(experts) for part in leaves]
    if not any(name in held for name in each):
        return [f"{path}.{_EXPERT_STACKS[stack]}"]
    return [f"{path}.{name}" for name in each if name not in held]
