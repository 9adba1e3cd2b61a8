# SPDX-License-Identifier: Apache-2.0
"""Describe the shape of a Gemma 4 language model, as far as the planner needs its config.json.

The five released models are built in, so that a plan needs no checkpoint. Their figures are those
of DeepMind's `gemma` package (4.0.1) and, for the 12B, of an independent PyTorch port.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo, experts_of

SLIDING, FULL = "sliding_attention", "full_attention"


class PlanError(ValueError):
    """Report what cannot be planned; the message is one sentence for the user."""


@dataclass(frozen=True)
class Geometry:
    """Describe one language model.

    kv_heads, head_dim: of sliding layers; global_*: of full layers
    k_eq_v: full layers have no v_proj in the checkpoint; SGLang loads and stores K twice
    kv_shared: layers at the end that attend to the KV of an earlier layer
    ple: width of the per-layer embeddings, 0 without
    window: keys that a sliding layer sees, including the token's own
    tied: the embeddings are also the head
    """

    name: str
    layer_types: tuple[str, ...] = field(repr=False)
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    global_kv_heads: int
    window: int
    max_context: int
    head_dim: int = 256
    global_head_dim: int = 512
    vocab: int = 262_144
    k_eq_v: bool = False
    kv_shared: int = 0
    double_wide_mlp: bool = False
    ple: int = 0
    experts: int = 0
    top_k: int = 0
    expert_intermediate: int = 0
    tied: bool = True

    @property
    def layers(self) -> int:
        return len(self.layer_types)

    @property
    def is_moe(self) -> bool:
        return self.experts > 0

    @property
    def widest_intermediate(self) -> int:
        return max(self.layer_intermediate(layer) for layer in range(self.layers))

    def layer_intermediate(self, layer: int) -> int:
        wide = self.double_wide_mlp and self.shares_kv(layer)
        return self.intermediate * (2 if wide else 1)

    def shares_kv(self, layer: int) -> bool:
        return layer >= self.layers - self.kv_shared

    def is_full(self, layer: int) -> bool:
        return self.layer_types[layer] == FULL

    def heads_of(self, layer: int) -> tuple[int, int, int]:
        """Return query heads, KV heads and head_dim of a layer."""
        if self.is_full(layer):
            return self.heads, self.global_kv_heads, self.global_head_dim
        return self.heads, self.kv_heads, self.head_dim

    def kv_layers(self, kind: str, *, shared_too: bool = False) -> int:
        """Count the layers of a kind that own KV; `shared_too` counts as SGLang 0.5.23 does."""
        return sum(
            self.layer_types[layer] == kind and (shared_too or not self.shares_kv(layer))
            for layer in range(self.layers)
        )


def _pattern(layers: int, sliding: int) -> tuple[str, ...]:
    """Repeat `sliding` sliding layers and a full one; the last layer is always full."""
    period = sliding + 1
    return tuple(
        FULL if (i + 1) % period == 0 or i == layers - 1 else SLIDING for i in range(layers)
    )


_SMALL, _LARGE = 131_072, 262_144  # context lengths of the released models

BUILT_IN: dict[str, Geometry] = {
    geometry.name: geometry
    for geometry in (
        Geometry(
            "E2B", _pattern(35, 4), 1536, 6144, 8, 1, 1, 512, _SMALL,
            kv_shared=20, double_wide_mlp=True, ple=256,
        ),
        Geometry("E4B", _pattern(42, 5), 2560, 10240, 8, 2, 2, 512, _SMALL, kv_shared=18, ple=256),
        Geometry("12B", _pattern(48, 5), 3840, 15360, 16, 8, 1, 1024, _LARGE, k_eq_v=True),
        Geometry(
            "26B-A4B", _pattern(30, 5), 2816, 2112, 16, 8, 2, 1024, _LARGE,
            k_eq_v=True, experts=128, top_k=8, expert_intermediate=704,
        ),
        Geometry("31B", _pattern(60, 5), 5376, 21504, 32, 16, 4, 1024, _LARGE, k_eq_v=True),
    )
}  # fmt: skip


_RELEASED = re.compile(rf"(?:gemma-4-)?({'|'.join(BUILT_IN)})(?:-.*)?", re.IGNORECASE)


def built_in(path: str) -> Geometry:
    """Return a released model by name, in any case, or by a hub name that holds it.

    Raises PlanError.
    """
    found = _RELEASED.fullmatch(path.rpartition("/")[2])
    if found is None or path.startswith(("/", ".", "~")):
        raise PlanError(
            f"{path!r} is neither a folder with a config.json nor one of {', '.join(BUILT_IN)}"
        )
    return next(shape for name, shape in BUILT_IN.items() if name.lower() == found[1].lower())


def from_config(model: ModelInfo) -> Geometry:
    """Read the geometry from config.json, in the hub's form or that of transformers 5.19.

    Raises PlanError on a model that is not Gemma 4 or lacks a field.
    """
    if not model.is_gemma4:
        raise PlanError(
            f"{model.path} is not a Gemma 4 ({model.architecture or 'no architecture'}): plan a "
            "Gemma 4 checkpoint"
        )
    text = model.text
    try:
        sliding, full = _attention_shapes(text)
        return Geometry(
            name=model.path.rstrip("/").rpartition("/")[2],
            layer_types=tuple(text["layer_types"]),
            hidden=text["hidden_size"],
            intermediate=text["intermediate_size"],
            heads=text["num_attention_heads"],
            kv_heads=sliding[0],
            global_kv_heads=full[0],
            head_dim=sliding[1],
            global_head_dim=full[1],
            window=text["sliding_window"],
            max_context=text["max_position_embeddings"],
            vocab=text["vocab_size"],
            k_eq_v=bool(text.get("attention_k_eq_v")),
            kv_shared=text.get("num_kv_shared_layers") or 0,
            double_wide_mlp=bool(text.get("use_double_wide_mlp")),
            ple=text.get("hidden_size_per_layer_input") or 0,
            experts=experts_of(text),
            top_k=text.get("top_k_experts") or 0,
            expert_intermediate=text.get("moe_intermediate_size") or 0,
            tied=model.config.get("tie_word_embeddings", True),
        )
    except KeyError as missing:
        raise PlanError(
            f"the config.json of {model.path} lacks {missing}: download it again"
        ) from None


def _attention_shapes(text: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (KV heads, head_dim) of sliding and of full layers."""
    sliding = text["num_key_value_heads"], text["head_dim"]
    own = text.get("per_layer_config") or {}
    full: Mapping[str, Any] = next((own[str(i)] for i, t in enumerate(text["layer_types"])
                 if t == FULL and str(i) in own), {})  # fmt: skip
    heads = text.get("num_global_key_value_heads") or full.get("num_key_value_heads")
    dim = text.get("global_head_dim") or full.get("head_dim")
    return sliding, (heads or sliding[0], dim or sliding[1])
