# SPDX-License-Identifier: Apache-2.0
"""Compare a checkpoint's tensor names with those that its config.json asks for.

Tied, KV-shared and K = V projections are not asked for. Extra tensors never refuse a checkpoint:
towers, rotary buffers, redundant projections, optimizer leftovers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.model_family import (
    DRAFT_ARCHITECTURES,
    MULTIMODAL_ARCHITECTURES,
    TOWER_WEIGHT,
    ModelInfo,
    experts_of,
)
from sglang_gemma4_ext.checkpoint.names import INNER
from sglang_gemma4_ext.checkpoint.schemes import Quantization

FULL = "full_attention"
# The weight itself, as the formats name it; a layer's other tensors come with one of these.
WEIGHT_LEAVES = ("weight", "weight_packed", "qweight")
_PREFIXES = {
    "multimodal": ("model.language_model.", "language_model.", "model.model.language_model."),
    "text": ("model.", "model.language_model.", "model.model.", ""),
}
# Marks names of the language model that lack the prefix by which SGLang finds them.
_NO_PREFIX = "no prefix: "
_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
          "post_feedforward_layernorm")  # fmt: skip
_EXPERT_NORMS = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2",
                 "pre_feedforward_layernorm_2")  # fmt: skip
_HEADS = ("lm_head.", "pre_projection.", "post_projection.", "masked_embedding.")


@dataclass(frozen=True)
class Difference:
    """Hold tensors that are missing and tensors without a place in the model, sorted by name."""

    missing: tuple[str, ...]
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        sentence = _count(self.missing, "lacks", "that its config.json asks for")
        if self.unknown:
            sentence += " and " + _count(self.unknown, "holds", "with no place in the model")
        return sentence


def refuse(path: str, found: Difference) -> NoReturn:
    """Raise CheckpointError for a checkpoint with missing tensors."""
    raise CheckpointError(
        f"{path} {found}: the weights or config.json are of another model, renamed or "
        "incomplete; export or download the checkpoint again"
    )


def _count(names: tuple[str, ...], verb: str, which: str) -> str:
    tensors = f"{len(names)} tensor{'s' if len(names) > 1 else ''}"
    return f"{verb} {tensors} {which} ({_first(names)})"


def _first(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"first {names[0]}"


def compare(names: Collection[str], model: ModelInfo, quantization: Quantization) -> Difference:
    """Compare `names` with what a Gemma 4 target or draft of this configuration needs."""
    prefixes = _PREFIXES["multimodal" if model.architecture in MULTIMODAL_ARCHITECTURES else "text"]
    inner = {_inner(name, prefixes) for name in names}
    modules = {
        module for module, _, leaf in (n.rpartition(".") for n in inner) if leaf in WEIGHT_LEAVES
    }
    layers = _layers(model, inner, modules) if model.text.get("layer_types") else []
    wanted = [*_globals(model), *layers] if layers else []
    any_vector = any(name in inner for name, matrix in wanted if not matrix)
    missing = []
    for name, matrix in wanted:
        # A header without a single norm proves nothing; the check after loading finds the rest.
        if name in inner or (not matrix and not any_vector):
            continue
        module = name.removesuffix(".weight")
        if module in modules or _held_in_another_way(module, inner, prefixes, quantization):
            continue
        missing.append(name if name.startswith(_HEADS) else prefixes[0] + name)
    unknown = [name for name in names if not _has_a_place(name, prefixes)]
    return Difference(tuple(sorted(missing, key=_numbers)), tuple(sorted(unknown, key=_numbers)))


def _held_in_another_way(
    module: str, inner: set[str], prefixes: tuple[str, ...], quantization: Quantization
) -> bool:
    """Tell whether a layer in an unknown format has any tensor at all."""
    if quantization.of(prefixes[0] + module).format not in ("unknown", "bitsandbytes"):
        return False
    return any(name.startswith(module) for name in inner)


def _inner(name: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        if name.startswith(prefix) and INNER.fullmatch(rest := name.removeprefix(prefix)):
            return rest.replace(".moe.experts.", ".experts.").replace(".moe.per", ".router.per")
    if name.startswith("model.lm_head."):
        return name.removeprefix("model.")
    return f"{_NO_PREFIX}{name}" if INNER.fullmatch(name) else name


def _has_a_place(name: str, prefixes: tuple[str, ...]) -> bool:
    inner = _inner(name, prefixes)
    return bool(
        TOWER_WEIGHT.match(name)
        or inner.startswith(_HEADS)
        or (INNER.fullmatch(inner) and ".base_layer." not in inner)
    )


def _globals(model: ModelInfo) -> Iterator[tuple[str, bool]]:
    """Yield (name, whether it is a matrix) for the tensors outside layers."""
    yield "embed_tokens.weight", True
    yield "norm.weight", False
    if per_layer_width(model):
        yield "embed_tokens_per_layer.weight", True
        yield "per_layer_model_projection.weight", True
        yield "per_layer_projection_norm.weight", False
    if not is_tied(model):
        yield "lm_head.weight", True
    if model.architecture in DRAFT_ARCHITECTURES:
        yield "pre_projection.weight", True
        yield "post_projection.weight", True
        if model.config.get("use_ordered_embeddings"):
            yield "masked_embedding.centroids.weight", True
            yield "masked_embedding.token_ordering", True


def is_tied(model: ModelInfo) -> bool:
    """Tell whether lm_head is tied; the top level of config.json decides, as in transformers."""
    return model.config.get("tie_word_embeddings") is not False


def per_layer_width(model: ModelInfo) -> int:
    """Return the width of per-layer embeddings; 0 without, as in the 12B's family."""
    unified = "Unified" in model.architecture
    return model.text.get("hidden_size_per_layer_input", 0 if unified else 256) or 0


def _layers(model: ModelInfo, inner: set[str], modules: set[str]) -> list[tuple[str, bool]]:
    text, types = model.text, list(model.text["layer_types"])
    draft = model.architecture in DRAFT_ARCHITECTURES
    own_kv = 0 if draft else len(types) - (text.get("num_kv_shared_layers") or 0)
    found: list[tuple[str, bool]] = []
    for index, kind in enumerate(types):
        k_is_v = bool(text.get("attention_k_eq_v")) and kind == FULL
        here = [*_attention(index < own_kv, k_is_v), *_feed_forward(text)]
        if per_layer_width(model):
            here += [("per_layer_input_gate.weight", True), ("per_layer_projection.weight", True)]
            here += [("post_per_layer_input_norm.weight", False)]
        found += [(f"layers.{index}.{name}", matrix) for name, matrix in here]
        found += [
            (name, True) for name in _experts(f"layers.{index}.experts", text, inner, modules)
        ]
    return found


def _attention(own_kv: bool, k_is_v: bool) -> Iterator[tuple[str, bool]]:
    projections = ["q_proj", "o_proj"]
    if own_kv:
        projections += ["k_proj"] if k_is_v else ["k_proj", "v_proj"]
        yield "self_attn.k_norm.weight", False
    yield "self_attn.q_norm.weight", False
    for name in projections:
        yield f"self_attn.{name}.weight", True


def _feed_forward(text: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    for name in ("gate", "up", "down"):
        yield f"mlp.{name}_proj.weight", True
    norms: tuple[str, ...] = _NORMS
    if experts_of(text):
        norms += _EXPERT_NORMS
        yield "router.proj.weight", True
        yield "router.scale", False
        yield "router.per_expert_scale", False
    for name in norms:
        yield f"{name}.weight", False
    yield "layer_scalar", False


def _experts(path: str, text: dict[str, Any], inner: set[str], modules: set[str]) -> list[str]:
    """List the names of stacked experts, two tensors, or of three linears for each expert."""
    count = experts_of(text)
    stacked = [f"{path}.gate_up_proj", f"{path}.down_proj"]
    if not count:
        return []
    if any(f"{name}_packed" in inner for name in stacked):
        return [f"{name}_packed" for name in stacked]
    if any(name in inner for name in stacked) or f"{path}.0.up_proj" not in modules:
        return stacked
    leaves = ("gate_proj", "up_proj", "down_proj")
    return [f"{path}.{expert}.{leaf}.weight" for expert in range(count) for leaf in leaves]


def _numbers(name: str) -> list[tuple[int, str]]:
    """Make a key that sorts layer 2 before layer 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
