# SPDX-License-Identifier: Apache-2.0
"""Apply LoRA adapters to the attention and MLP linears of every layer.

SGLang stacks q, k and v, and gate and up, and expects one shape in all layers and a factor for each
part. Gemma 4 has two attention shapes, K = V layers without v_proj, and KV-shared layers without k
and v. Shapes come from the config here. Absent factors are zero. A K = V layer, whose linear is
loaded with K twice, gets the factors of K twice.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sglang_gemma4_ext.checkpoint.adapters import (
    WEIGHTS,
    check_config,
    check_tensors,
    is_of_tower,
    leaves,
    part_of,
    shape_of,
)
from sglang_gemma4_ext.checkpoint.files import read_header
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.plan.geometry import Geometry, from_config
from sglang_gemma4_ext.registry import Hook, Patch, Source

logger = logging.getLogger(__name__)

LORA = "sglang.srt.lora"
ADAPTER = f"{LORA}.lora.LoRAAdapter"
CONFIG = f"{LORA}.lora_config.LoRAConfig"
MANAGER = f"{LORA}.lora_manager.LoRAManager"
POOL = f"{LORA}.mem_pool.LoRAMemoryPool"

STACKS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
SERVED = frozenset({*STACKS, "o_proj", "down_proj"})
_LINEAR = re.compile(
    rf"(?:language_model|model)\.layers\.\d+\.(?:self_attn|mlp)\.({'|'.join(SERVED)})"
)


# A field of config.json -> where SGLang's config has it.
_RENAMED = {
    "global_head_dim": "head_dim",
    "num_global_key_value_heads": "num_key_value_heads",
    "head_dim": "swa_head_dim",
    "num_key_value_heads": "swa_num_key_value_heads",
}


@functools.cache
def _geometry(text: str) -> Geometry:
    return from_config(ModelInfo("the model", "Gemma4ForCausalLM", json.loads(text)))


def geometry_of(config: Any) -> Geometry:
    """Read the shapes of a model from the config that SGLang made of its config.json."""
    text = config.get_text_config()
    content = text.to_dict()
    if hasattr(text, "swa_head_dim"):
        content |= {ours: getattr(text, theirs) for ours, theirs in _RENAMED.items()}
    return _geometry(json.dumps(content, default=str, sort_keys=True))


def _read_config(result: None, config: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER LoRAConfig.__init__: take the projections from the tensors, not from a pattern."""
    name = config.path or "the adapter"
    check_config(name, config.hf_config)
    given = config.hf_config["target_modules"]
    file = _weights(config.path)
    if file is not None:
        config.target_modules = leaves(read_header(file))
    elif not isinstance(given, str):
        config.target_modules = leaves(
            f"layers.0.{block}.{module.rpartition('.')[2]}.lora_A.weight"
            for module in given
            for block in ("self_attn", "mlp")
        )


def _weights(path: str | None) -> Path | None:
    """Return the safetensors file of an adapter, fetched if need be; None without one."""
    if path is None:
        return None
    if not Path(path).is_dir():
        from huggingface_hub import snapshot_download

        path = snapshot_download(path, allow_patterns=["*.json", WEIGHTS])
    file = Path(path) / WEIGHTS
    return file if file.is_file() else None


def _scale(result: None, adapter: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER LoRAAdapter.__init__: scale as rank-stabilized LoRA asks (peft's use_rslora)."""
    config = adapter.config
    if config.hf_config.get("use_rslora"):
        adapter.scaling = config.lora_alpha / math.sqrt(config.r)


def _complete(adapter: Any) -> None:
    """BEFORE _normalize_weights: check all tensors, and add the factors that stacks lack."""
    geometry = geometry_of(adapter.base_hf_config)
    name, rank = adapter.config.path or adapter.uid, adapter.config.r
    every = [adapter.embedding_layers, adapter.added_tokens_embeddings]
    every += [layer.weights for layer in adapter.layers]
    shapes = {key: tuple(weight.shape) for group in every for key, weight in group.items()}
    check_tensors(name, shapes, rank, geometry)
    towers = sum(map(is_of_tower, shapes))
    if towers:
        logger.warning(
            "%s: %d tensors of a vision or audio tower are not applied; text is not affected",
            name, towers,
        )  # fmt: skip
    for index, layer in enumerate(adapter.layers):
        for key in [key for key in layer.weights if is_of_tower(key)]:
            del layer.weights[key]
        for parts in STACKS.values():
            _complete_stack(layer.weights, geometry, index, parts, rank)


def _complete_stack(
    weights: dict[str, torch.Tensor],
    geometry: Geometry,
    index: int,
    parts: tuple[str, ...],
    rank: int,
) -> None:
    """Add the factors of a stack's absent parts: K's for the V of a K = V layer, else zeros."""
    given = {key: part for key in weights if (part := part_of(key)) and part.leaf in parts}
    if not given:
        return
    sample, example = next(iter(given.items()))
    like = weights[sample]

    def key_of(leaf: str, side: str) -> str:
        renamed = sample.replace(f".{example.leaf}.", f".{leaf}.")
        return renamed.replace(f".lora_{example.side}.", f".lora_{side}.")

    k_is_v = geometry.k_eq_v and geometry.is_full(index)
    for leaf in parts:
        rows, k = shape_of(geometry, index, leaf)
        for side, shape in (("A", (rank, k)), ("B", (rows, rank))):
            key = key_of(leaf, side)
            if key in weights:
                continue
            same = weights.get(key_of("k_proj", side)) if leaf == "v_proj" and k_is_v else None
            weights[key] = like.new_zeros(shape) if same is None else same.clone()


def _only_linears(original: Callable[..., Any], manager: Any) -> Any:
    """AROUND init_lora_modules: wrap no experts, towers or embeddings."""
    manager.base_model.should_apply_lora = lambda name: _LINEAR.fullmatch(name) is not None
    return original(manager)


def _served_modules(result: None, manager: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER init_lora_shapes: leave out what --lora-target-modules all adds."""
    manager.target_modules &= SERVED


def _no_experts(original: Callable[..., bool], base_model: Any) -> bool:
    """AROUND _has_moe_module: gate_up_proj and down_proj are those of the MLP."""
    return False


def _hidden_dim(
    original: Callable[..., Any], module: str, config: Any, base_model: Any, layer: int, *args: Any
) -> Any:
    """AROUND get_hidden_dim: (in-features, rows) of a stacked linear, before tensor parallelism."""
    if module not in SERVED:
        return original(module, config, base_model, layer, *args)
    geometry = geometry_of(config)
    shapes = [shape_of(geometry, layer, leaf) for leaf in STACKS.get(module, (module,))]
    return shapes[0][1], sum(rows for rows, _ in shapes)


def _local_dim(
    original: Callable[..., Any], pool: Any, module: str, base_model: Any, layer: int, axis: str
) -> Any:
    """AROUND _dense_local_dim: a rank's in-features (axis "input") or rows ("output")."""
    if module not in SERVED:
        return original(pool, module, base_model, layer, axis)
    geometry = geometry_of(pool.base_hf_config)
    heads, kv_heads, dim = geometry.heads_of(layer)
    if module in ("qkv_proj", "o_proj"):
        ranks = pool.attn_tp_size
        query = heads // ranks * dim
        return query if module == "o_proj" else query + 2 * max(1, kv_heads // ranks) * dim
    inner = geometry.layer_intermediate(layer) // pool.tp_size
    return inner if module == "down_proj" else 2 * inner


def _retired() -> bool:
    from sglang.srt.lora.lora import LoRAAdapter
    from sglang.srt.models.gemma4_mm import Gemma4ForConditionalGeneration

    shapes = inspect.getsource(inspect.unwrap(Gemma4ForConditionalGeneration.get_hidden_dim))
    stacks = inspect.getsource(inspect.unwrap(LoRAAdapter.normalize_qkv_proj))
    return "layer_types" in shapes and "else torch.zeros_like(weights[v_name])" not in stacks


PATCH = Patch(
    name="lora_linears",
    theme="adapters",
    summary="LoRA adapters on attention and MLP apply in every layer, K = V and KV-shared included",
    why="SGLang wants v_proj in every layer and one shape of attention and MLP; its get_hidden_dim "
    "for Gemma 4 raises for all four linears",
    upstream="https://github.com/sgl-project/sglang/pull/28199",
    retire_when="Gemma4ForConditionalGeneration.get_hidden_dim knows layer types, and a layer "
    "without v_proj loads",
    retired=_retired,
    hooks=(
        Hook(f"{CONFIG}.__init__", "c6bb44fa7e0f", "after", _read_config),
        Hook(f"{ADAPTER}.__init__", "310e8ff8befc", "after", _scale),
        Hook(f"{ADAPTER}._normalize_weights", "b1257df57d6b", "before", _complete),
        Hook(f"{MANAGER}.init_lora_modules", "6c3fd3f87877", "around", _only_linears),
        Hook(f"{MANAGER}.init_lora_shapes", "a3923745ac8a", "after", _served_modules),
        Hook(f"{POOL}._has_moe_module", "9f2a2443dd3a", "around", _no_experts),
        Hook(f"{POOL}._dense_local_dim", "47ea5a6a3f0b", "around", _local_dim),
        Hook(f"{LORA}.utils.get_hidden_dim", "60734b40ec39", "around", _hidden_dim),
    ),
    relies_on=(
        Source(f"{ADAPTER}.normalize_qkv_proj", "9d130ea38012"),
        Source(f"{ADAPTER}.normalize_gate_up_proj", "916851828b4f"),
        Source(f"{LORA}.layers.QKVParallelLinearWithLoRA.slice_lora_b_weights", "75f7d8b24f45"),
    ),
)
