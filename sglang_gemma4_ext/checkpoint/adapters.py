# SPDX-License-Identifier: Apache-2.0
"""Check LoRA adapters, as peft saves them, against the model that they are to change.

Adapters change the attention and MLP linears of the language model. Parts for a tower are left out,
because text is served. Everything else an adapter may hold cannot be applied at run time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.checkpoint.files import CheckpointError, load_json, read_header
from sglang_gemma4_ext.checkpoint.model_family import TOWER_WEIGHT, ModelInfo
from sglang_gemma4_ext.plan.geometry import Geometry, from_config

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MERGE = "merge the adapter into the weights and serve those"
_PART = re.compile(
    r"(?:.*\.)?layers\.(?P<layer>\d+)\.(?P<block>self_attn|mlp)\.(?P<leaf>\w+)"
    r"\.lora_(?P<side>[AB])\.(?:\w+\.)?weight"
)
_PEFT = "base_model.model."
# Fields of adapter_config.json that ask for more than two factors of one rank.
_BEYOND = (
    "use_dora", "rank_pattern", "alpha_pattern", "layer_replication", "trainable_token_indices",
)  # fmt: skip

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """Name one factor of an adapter. side: "A" [rank, in-features] or "B" [rows, rank]"""

    layer: int
    leaf: str
    side: str


def part_of(name: str) -> Part | None:
    """Return what a tensor of an adapter is; None for all but the factors of layers' linears."""
    match = _PART.fullmatch(name)
    if match is None or is_of_tower(name):
        return None
    expected = ATTENTION if match["block"] == "self_attn" else MLP
    leaf = match["leaf"]
    return Part(int(match["layer"]), leaf, match["side"]) if leaf in expected else None


def is_of_tower(name: str) -> bool:
    """Tell whether a tensor of an adapter belongs to a vision or audio tower."""
    return TOWER_WEIGHT.match(name.removeprefix(_PEFT)) is not None


def shape_of(geometry: Geometry, layer: int, leaf: str) -> tuple[int, int]:
    """Return the rows and in-features of a linear, as in a checkpoint of the model."""
    hidden, inner = geometry.hidden, geometry.layer_intermediate(layer)
    heads, kv_heads, dim = geometry.heads_of(layer)
    return {
        "q_proj": (heads * dim, hidden),
        "k_proj": (kv_heads * dim, hidden),
        "v_proj": (kv_heads * dim, hidden),
        "o_proj": (hidden, heads * dim),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }[leaf]


def check_config(path: str, config: Mapping[str, Any]) -> None:
    """Refuse kinds of adapters that cannot be applied. Raises CheckpointError."""
    kind = str(config.get("peft_type", "")).upper()
    if kind != "LORA":
        raise CheckpointError(f"{path} holds a {kind or 'nameless'} adapter, not a LoRA: {_MERGE}")
    if not isinstance(config.get("r"), int) or config["r"] < 1:
        raise CheckpointError(f"{path} has no rank r in {CONFIG}: save the adapter again with peft")
    beyond = [name for name in _BEYOND if config.get(name)]
    if config.get("bias") not in (None, "none"):
        beyond.append("bias")
    if beyond:
        raise CheckpointError(f"{path} uses {beyond[0]} of peft, which SGLang does not: {_MERGE}")


def check_tensors(path: str, shapes: Shapes, rank: int, geometry: Geometry) -> None:
    """Compare the tensors of an adapter with the model's linears. Raises CheckpointError."""
    foreign = [name for name in shapes if part_of(name) is None and not is_of_tower(name)]
    parts = {name: part for name in shapes if (part := part_of(name))}
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise CheckpointError(
            f"{path} changes {foreign[0]}{more}, which cannot be applied at run time: {_MERGE}"
        )
    if not parts:
        raise CheckpointError(
            f"{path} changes no linear of the language model: it belongs to another model, or to "
            "the towers alone"
        )
    for name, part in parts.items():
        _check_shape(path, name, part, shapes[name], rank, geometry)


def _check_shape(
    path: str, name: str, part: Part, shape: tuple[int, ...], rank: int, geometry: Geometry
) -> None:
    if part.layer >= geometry.layers:
        raise CheckpointError(
            f"{path} changes {name}, and the model has {geometry.layers} layers: the adapter "
            "belongs to another model"
        )
    rows, k = shape_of(geometry, part.layer, part.leaf)
    wanted = (rank, k) if part.side == "A" else (rows, rank)
    if shape != wanted:
        raise CheckpointError(
            f"{path}: {name} is {list(shape)}, and the model needs {list(wanted)}: the adapter "
            "belongs to another model"
        )


def leaves(names: Iterable[str]) -> list[str]:
    """List the projections that the tensors of an adapter change."""
    found = {part.leaf for name in names if (part := part_of(name))}
    return [leaf for leaf in ATTENTION + MLP if leaf in found]


def check_adapter(path: str, target: ModelInfo) -> None:
    """Check a local adapter before the start; one by a hub name is checked when it is loaded.

    Raises CheckpointError with one sentence.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{path} has no {CONFIG}: name a folder that peft has saved")
    config = load_json(folder / CONFIG)
    check_config(path, config)
    if (folder / WEIGHTS).is_file():
        tensors = read_header(folder / WEIGHTS)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        check_tensors(path, shapes, config["r"], from_config(target))


def paths_of(values: Any) -> list[str]:
    """Return the paths among values of --lora-paths.

    values: as SGLang takes them: `path`, `name=path`, JSON objects, their dicts or records, or a
        dict of names. Values in another form are left to SGLang.
    """
    entries = values.values() if isinstance(values, dict) else values or ()
    return [path for entry in entries if isinstance(path := _path_of(entry), str)]


def _path_of(entry: Any) -> Any:
    if isinstance(entry, str) and entry.startswith("{"):
        try:
            entry = json.loads(entry)
        except ValueError:
            return None
    if isinstance(entry, str):
        return entry.partition("=")[2] or entry
    return entry.get("lora_path") if isinstance(entry, dict) else getattr(entry, "lora_path", None)
