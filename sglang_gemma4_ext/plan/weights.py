# SPDX-License-Identifier: Apache-2.0
"""Count the bytes of weights on one GPU, from a geometry and a format or from headers.

Both count what SGLang 0.5.23 holds, not what is on disk. Text-only servers have no
towers, and tied embeddings have no separate head. K counts twice if it is also V. A trainer's
leftovers do not count. KV-shared layers always have k_proj and v_proj, because SGLang builds both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil, prod

from sglang_gemma4_ext.checkpoint.files import Tensor
from sglang_gemma4_ext.checkpoint.layer_formats import count_formats
from sglang_gemma4_ext.checkpoint.model_family import TOWER_WEIGHT
from sglang_gemma4_ext.checkpoint.schemes import MODELOPT, Quantization
from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK as NVFP4_GROUP
from sglang_gemma4_ext.plan.geometry import Geometry, PlanError

BF16 = 2.0
FP8 = 1.0
# Two E2M1 codes a byte, and an E4M3 scale for each 16 weights along K.
NVFP4 = 0.5 + 1 / NVFP4_GROUP
# A code of four bits, and a scale of 16 for each 32 weights, the smallest group that is common.
INT4 = 0.5 + 2 / 32
PLAIN_CHECKPOINT = Quantization()

# What a format quantizes, and its bytes per weight; the rest stays BF16.
FORMATS: dict[str, tuple[frozenset[str], float]] = {
    "bf16": (frozenset(), BF16),
    "fp8": (frozenset({"attention", "mlp", "experts"}), FP8),
    "int4": (frozenset({"attention", "mlp", "experts"}), INT4),
    "nvfp4": (frozenset({"attention", "mlp", "experts"}), NVFP4),
    "nvfp4-mlp": (frozenset({"mlp", "experts"}), NVFP4),
    "nvfp4-experts": (frozenset({"experts"}), NVFP4),
}

_ELEMENT_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
    "I16": 2, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
# Names that the language model loads, without prefixes.
_LOADED = re.compile(
    r"(model\.|language_model\.)*(layers\.\d+\.|embed_tokens|per_layer_|norm\.|lm_head\.)"
)
# Parts of which each GPU holds all; see _counts.
REPLICATED = frozenset({"embeddings", "ple", "other", "towers"})
_TRAINERS = re.compile(r"(^|\.)(optimizer|exp_avg(_sq)?|momentum_buffer|master_weight)(\.|$)")
_QUERY = re.compile(r"\.layers\.(\d+)\.self_attn\.q_proj\.")
_KEY = re.compile(r"\.layers\.(\d+)\.self_attn\.k_proj\.")
_KEY_OR_VALUE = re.compile(r"\.layers\.(\d+)\.self_attn\.[kv]_proj\.")


@dataclass(frozen=True)
class Weights:
    """Hold bytes on one GPU by part: attention, mlp, experts, embeddings, ple, other.

    ple is the table of per-layer embeddings; its projections are among the others.
    swizzled: what stock SGLang 0.5.23 keeps beside them; see swizzled_scales
    nvfp4_experts, int4_experts: whether any part of them is experts in that format
    formats: of each class of layers, the most frequent first; empty if they are estimated
    """

    parts: Mapping[str, int]
    source: str
    swizzled: int = 0
    nvfp4_experts: bool = False
    int4_experts: bool = False
    formats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def with_host_ple(self) -> Weights:
        """Return what is left on the GPU under --gemma4-ple host."""
        parts = {part: size for part, size in self.parts.items() if part != "ple"}
        return replace(self, parts=parts)

    def with_int8_head(self, geometry: Geometry) -> Weights:
        """Return the weights under --gemma4-head int8: a byte a code, an fp32 scale a row.

        A head of its own is not quantized.
        """
        if not geometry.tied:
            return self
        table = geometry.vocab * (geometry.hidden + 4)
        return replace(self, parts={**self.parts, "embeddings": table})


def estimate(geometry: Geometry, fmt: str, tp: int = 1) -> Weights:
    """Estimate the weights of a geometry in one of FORMATS; NVFP4 is as ModelOpt writes it.

    Raises PlanError on another format.
    """
    if fmt not in FORMATS:
        raise PlanError(f"--weights must be one of {', '.join(FORMATS)}, not {fmt!r}")
    quantized, width = FORMATS[fmt]
    parts = {
        part: int(count * (width if part in quantized else BF16))
        for part, count in _counts(geometry, tp).items()
    }
    in_nvfp4 = fmt.startswith("nvfp4") and "experts" in quantized
    nvfp4_experts = geometry.experts > 0 and in_nvfp4
    return Weights(
        {part: size for part, size in parts.items() if size},
        f"estimated, {fmt}",
        swizzled_scales(geometry, tp) if nvfp4_experts else 0,
        nvfp4_experts,
        geometry.experts > 0 and fmt == "int4",
    )


def swizzled_scales(geometry: Geometry, tp: int = 1) -> int:
    """Return the bytes of a second copy of ModelOpt NVFP4 experts' block scales.

    Blackwell's kernels read this copy. SGLang 0.5.23 makes it on any GPU, in blocks of 128 rows and
    4 columns, and keeps it even if nothing reads it.
    patches/weights/experts_without_swizzled_scales.py avoids it.
    """
    inner = geometry.expert_intermediate // tp

    def padded(rows: int, k: int) -> int:
        return ceil(rows / 128) * 128 * ceil(k / NVFP4_GROUP / 4) * 4

    expert = padded(2 * inner, geometry.hidden) + padded(geometry.hidden, inner)
    return geometry.layers * geometry.experts * expert


def _counts(geometry: Geometry, tp: int) -> dict[str, int]:
    """Count the weights of one GPU by part; norms and scalars, under 0.1 %, are left out.

    Each GPU holds whole embeddings, per-layer embeddings and routers. A head of its own is sharded.
    """
    table = geometry.vocab * geometry.hidden
    counts = {
        "attention": sum(_attention(geometry, layer, tp) for layer in range(geometry.layers)),
        "mlp": sum(
            3 * geometry.hidden * geometry.layer_intermediate(layer)
            for layer in range(geometry.layers)
        ) // tp,
        "experts": 3 * geometry.layers * geometry.experts
        * geometry.expert_intermediate * geometry.hidden // tp,
        "embeddings": table if geometry.tied else table + table // tp,
        "other": geometry.layers * geometry.experts * geometry.hidden,  # routers
    }  # fmt: skip
    if geometry.ple:
        width = geometry.layers * geometry.ple
        counts["ple"] = width * geometry.vocab
        # The projection of the hidden state to it, a gate and a projection per layer.
        counts["other"] += width * 3 * geometry.hidden
    return counts


def _attention(geometry: Geometry, layer: int, tp: int) -> int:
    """Count q, k, v and o of one GPU, which holds at least one KV head."""
    heads, kv_heads, dim = geometry.heads_of(layer)
    return geometry.hidden * dim * (2 * heads // tp + 2 * max(1, kv_heads // tp))


def from_headers(
    tensors: Mapping[str, Tensor],
    geometry: Geometry,
    tp: int = 1,
    *,
    multimodal: bool = False,
    quantization: Quantization = PLAIN_CHECKPOINT,
) -> Weights:
    """Count a checkpoint's weights from its headers. Raises PlanError on an unknown dtype.

    quantization: what the checkpoint declares
    """
    parts: dict[str, int] = {}
    for name, tensor in tensors.items():
        part = _part(name)
        if _is_held(name, part, geometry, multimodal):
            size = _loaded_bytes(name, tensor, geometry) // _shards(name, part, geometry, tp)
            parts[part] = parts.get(part, 0) + size
    parts["attention"] = parts.get("attention", 0) + _unstored_kv(tensors, geometry, tp)
    experts = {name.rpartition(".")[0] for name in tensors if _part(name) == "experts"}
    formats = {(scheme.format, scheme.bits) for scheme in map(quantization.of, experts)}
    nvfp4_experts = any(name == "nvfp4" for name, _ in formats)
    by_modelopt = nvfp4_experts and quantization.tool == MODELOPT
    return Weights(
        parts,
        "summed from the checkpoint's headers",
        swizzled_scales(geometry, tp) if by_modelopt else 0,
        nvfp4_experts,
        ("int", 4) in formats,
        {kind: _by_count(found) for kind, found in count_formats(tensors, quantization).items()},
    )


def _by_count(formats: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(formats, key=lambda name: -formats[name]))


def _shards(name: str, part: str, geometry: Geometry, tp: int) -> int:
    """Return over how many GPUs a tensor is split."""
    if part in REPLICATED and "lm_head." not in name:
        return 1
    key = _KEY_OR_VALUE.search(name)
    return min(tp, geometry.heads_of(int(key[1]))[1]) if key else tp


def _is_held(name: str, part: str, geometry: Geometry, multimodal: bool) -> bool:
    """Tell whether SGLang keeps a tensor of the checkpoint."""
    if part == "towers":
        return multimodal
    if _TRAINERS.search(name) or not _LOADED.match(name):
        return False
    return not (geometry.tied and "lm_head." in name)


def _unstored_kv(tensors: Mapping[str, Tensor], geometry: Geometry, tp: int) -> int:
    """Count the bytes of k_proj and v_proj of KV-shared layers that the checkpoint leaves out."""
    stored = {int(found[1]) for name in tensors if (found := _KEY.search(name))}
    size = 0
    for name, tensor in tensors.items():
        found = _QUERY.search(name)
        if found and geometry.shares_kv(layer := int(found[1])) and layer not in stored:
            heads, kv_heads, _ = geometry.heads_of(layer)
            whole = prod(tensor.shape) * element_bytes(name, tensor) * 2 * kv_heads // heads
            size += whole // min(tp, kv_heads)
    return size


def _loaded_bytes(name: str, tensor: Tensor, geometry: Geometry) -> int:
    size = prod(tensor.shape) * element_bytes(name, tensor)
    key = _KEY.search(name)
    serves_as_v = key is not None and geometry.k_eq_v and geometry.is_full(int(key.group(1)))
    return 2 * size if serves_as_v else size


def element_bytes(name: str, tensor: Tensor) -> int:
    """Return the bytes of one element of a tensor. Raises PlanError on an unknown dtype."""
    if tensor.dtype not in _ELEMENT_BYTES:
        raise PlanError(f"{name} has the dtype {tensor.dtype}, whose size is not known")
    return _ELEMENT_BYTES[tensor.dtype]


def _part(name: str) -> str:
    if TOWER_WEIGHT.match(name):
        return "towers"
    for part, pattern in (
        ("ple", "embed_tokens_per_layer"),
        ("embeddings", "embed_tokens."),
        ("embeddings", "lm_head."),
        ("attention", ".self_attn."),
        ("experts", ".experts."),
        ("mlp", ".mlp."),
    ):
        if pattern in name:
            return part
    return "other"
