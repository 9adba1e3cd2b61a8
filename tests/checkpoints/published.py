# SPDX-License-Identifier: Apache-2.0
"""List the checkpoints that people download, by what their public files say.

Each entry holds the quantization config, the ignore list and how tensors are named and stored. A
name with `{layer}` stands for one name a layer. `basis` says which public facts an entry rests on,
and what was assumed. tests/checkpoints/published_writer.py writes one at toy size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Codec = Literal[
    "modelopt-nvfp4", "modelopt-nvfp4-weights", "modelopt-fp8", "ct-nvfp4", "ct-int4", "ct-fp8",
    "words-4", "words-8",
]  # fmt: skip
LAYER = "model.language_model.layers.{layer}."
ATTENTION, MLP = r"\.self_attn\.[qkvo]_proj$", r"\.mlp\.\w+_proj$"
EXPERTS, PER_LAYER = r"\.experts\.\d+\.", r"\.per_layer_(input_gate|projection|model_projection)$"
# The marker that stands for every linear of the towers, each by its own name.
TOWER_LINEARS = "{tower linears}"

FP8_KV = {"dynamic": False, "num_bits": 8, "type": "float"}
_FOUR = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}


@dataclass(frozen=True)
class Published:
    """Describe one checkpoint of the hub.

    kind: of bench.checkpoints.tiny; text: fields of its text config; audio: keeps its audio tower
    codecs: regex of a module -> how its weight is stored; the first match decides
    section: `quantization_config` of config.json
    hf_quant_config: `quantization` of hf_quant_config.json, None without the file
    stacked: all experts of a layer in one tensor; head: lm_head.weight beside tied embeddings
    kv_scales: where the scales of keys and values are, by tool
    formats: what `doctor` names for each class of layers
    """

    name: str
    basis: str
    kind: str
    codecs: dict[str, Codec]
    section: dict[str, Any] | None
    formats: dict[str, dict[str, int]]
    text: Literal["", "moe"] = ""
    audio: bool = False
    hf_quant_config: dict[str, Any] | None = None
    producer: dict[str, str] = field(default_factory=dict)
    stacked: bool = False
    head: bool = False
    kv_scales: Literal["", "modelopt", "ct"] = ""

    @property
    def short(self) -> str:
        return self.name.rpartition("/")[2].replace(":", "-")


def _modelopt(ignore: list[str], version: str, algorithm: str = "NVFP4", kv: bool = True) -> Any:
    group = {"input_activations": _FOUR, "weights": _FOUR, "targets": ["Linear"]}
    return {
        "config_groups": {"group_0": group},
        "ignore": ignore,
        "quant_algo": algorithm,
        **({"kv_cache_scheme": FP8_KV} if kv else {}),
        "producer": {"name": "modelopt", "version": version},
        "quant_method": "modelopt",
    }


def _arguments(bits: int, kind: str, strategy: str, group: int | None, **more: Any) -> Any:
    return {
        "actorder": None, "block_structure": None, "dynamic": False, "group_size": group,
        "num_bits": bits, "observer": "memoryless_minmax", "observer_kwargs": {},
        "scale_dtype": None, "strategy": strategy, "symmetric": True, "type": kind,
        "zp_dtype": None, **more,
    }  # fmt: skip


_E4M3 = {"scale_dtype": "torch.float8_e4m3fn"}
_NVFP4_GROUP = {
    "format": "nvfp4-pack-quantized",
    "input_activations": _arguments(
        4, "float", "tensor_group", 16, dynamic="local", observer="static_minmax", **_E4M3
    ),
    "output_activations": None,
    "weights": _arguments(4, "float", "tensor_group", 16, **_E4M3),
}
_FP8_GROUP = {
    "format": "float-quantized",
    "input_activations": _arguments(8, "float", "token", None, dynamic=True, observer=None),
    "output_activations": None,
    "weights": _arguments(8, "float", "channel", None),
}
_INT4_GROUP = {
    "format": "pack-quantized",
    "input_activations": None,
    "output_activations": None,
    "weights": _arguments(4, "int", "group", 32),
}


def _compressed_tensors(
    groups: list[dict[str, Any]], ignore: list[str], version: str, kv: bool = False
) -> dict[str, Any]:
    formats = {group["format"] for group in groups}
    return {
        "config_groups": {f"group_{i}": {"targets": ["Linear"], **g} for i, g in enumerate(groups)},
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "global_compression_ratio": None,
        "ignore": ignore,
        "kv_cache_scheme": _arguments(8, "float", "tensor", None) if kv else None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": version,
    }


_VISION = ["lm_head", "model.embed_vision*"]
_EXPERTS_ONLY = [*_VISION, LAYER + "mlp*", LAYER + "router*", LAYER + "self_attn*"]
_GOOGLE = [
    "model.embed_vision.patch_dense", "model.embed_vision.multimodal_embedder.embedding_projection",
    "model.embed_audio.embedding_projection", "lm_head",
]  # fmt: skip
_GOOGLE_TOWERS = [TOWER_LINEARS, "model.embed_vision.embedding_projection", "lm_head"]
_MIXED_LAYERS = {
    **{f"{LAYER}self_attn.{p}_proj": {"quant_algo": "FP8"} for p in "qkvo"},
    **{f"{LAYER}mlp.{p}_proj": {"quant_algo": "W4A16_NVFP4", "group_size": 16}
       for p in ("gate", "up", "down")},
}  # fmt: skip
_MIXED_BITS = {
    r".*mlp.*": {"bits": 8},
    r".*self_attn.*": {"bits": 8},
    **{f"{LAYER}{module}_proj": {"bits": 8}
       for module in ("mlp.down", "mlp.gate", "mlp.up", "self_attn.k", "self_attn.o",
                      "self_attn.q")},
    LAYER + "router.proj": {"bits": 16, "data_type": "fp"},
}  # fmt: skip
_NVFP4, _INT4, _INT8 = "NVFP4 (group 16)", "INT4 (group 32)", "INT8 (group 32)"
# Six layers, two of them K = V: 22 linears of attention. 18 of the MLP, and 8 experts a layer.
_PLAIN_HEAD = {"embeddings": {"BF16": 1}, "lm_head": {"BF16": 1}}
_TIED = {"embeddings": {"BF16": 1}}
_MOE = {"router": {"BF16": 6}, **_TIED}

PUBLISHED = (
    Published(
        "nvidia/Gemma-4-31B-IT-NVFP4",
        "config.json as another loader's tests transcribe it (revision 4135a98a).",
        "dense_with_towers",
        {MLP: "modelopt-nvfp4"},
        _modelopt([*_VISION, LAYER + "self_attn*", "model.vision_tower*"], "0.37.0"),
        {"attention": {"BF16": 22}, "mlp": {_NVFP4: 18}, **_TIED, "KV cache": {"FP8": 1}},
        hf_quant_config={
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": "FP8",
            "group_size": 16,
            "exclude_modules": [*_VISION, LAYER + "self_attn*", "model.vision_tower*"],
        },
        producer={"name": "modelopt", "version": "0.37.0"},
        kv_scales="modelopt",
    ),
    Published(
        "nvidia/Gemma-4-26B-A4B-NVFP4",
        "FP8 KV declared and experts alone in NVFP4 by reports of users. The list is what ModelOpt "
        "0.47 writes for that preset; for 30 layers its file has the 5.19 kB of the hub's listing.",
        "dense_with_towers",
        {EXPERTS: "modelopt-nvfp4"},
        _modelopt([*_EXPERTS_ONLY, "model.vision_tower*"], "0.43.0rc2.dev57+g87ea8babe"),
        {"attention": {"BF16": 22}, "mlp": {"BF16": 18}, "experts": {_NVFP4: 144}, **_MOE,
         "KV cache": {"FP8": 1}},
        text="moe",
        hf_quant_config={
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": "FP8",
            "group_size": 16,
            "exclude_modules": [*_EXPERTS_ONLY, "model.vision_tower*"],
        },
        producer={"name": "modelopt", "version": "0.43.0rc2.dev57+g87ea8babe"},
        kv_scales="modelopt",
    ),
    Published(
        "bg-digitalservices/Gemma-4-26B-A4B-it-NVFP4A16",
        "config.json as another loader's tests transcribe it; its config names quantized "
        "activations, but it holds no scales of them.",
        "dense_with_towers",
        {f"{ATTENTION}|{MLP}|{EXPERTS}": "modelopt-nvfp4-weights"},
        _modelopt(
            [*_VISION, LAYER + "router*", "model.vision_tower*"], "0.43.0rc2.dev57+g87ea8babe",
            kv=False,
        ),
        {"attention": {_NVFP4: 22}, "mlp": {_NVFP4: 18}, "experts": {_NVFP4: 144}, **_MOE},
        text="moe",
    ),
    Published(
        "cyankiwi/gemma-4-26B-A4B-it-AWQ-4bit",
        "Group 32, symmetric, stacked experts and their names from a public converter of this "
        "checkpoint; the ignore list is assumed to be llm-compressor's usual one.",
        "dense_with_towers",
        {f"{ATTENTION}|{MLP}|{EXPERTS}": "ct-int4"},
        _compressed_tensors(
            [_INT4_GROUP],
            [TOWER_LINEARS, "model.embed_vision.embedding_projection", LAYER + "router.proj",
             "lm_head"],
            "0.15.0",
        ),
        {"attention": {_INT4: 22}, "mlp": {_INT4: 18}, "experts": {_INT4: 12}, **_MOE},
        text="moe",
        stacked=True,
    ),
    Published(
        "google/gemma-4-12B-it-qat-w4a16-ct",
        "Quantization config as a user's launch script repeats it; a head of its own, by the size "
        "of 10.3 GB.",
        "unified",
        {f"{ATTENTION}|{MLP}": "ct-int4"},
        _compressed_tensors([_INT4_GROUP], _GOOGLE, "0.17.1.a20260602"),
        {"attention": {_INT4: 22}, "mlp": {_INT4: 18}, **_PLAIN_HEAD},
        head=True,
    ),
    Published(
        "google/gemma-4-31B-it-qat-w4a16-ct",
        "As the 12B, with the towers that vLLM's recipe names as left alone.",
        "dense_with_towers",
        {f"{ATTENTION}|{MLP}": "ct-int4"},
        _compressed_tensors([_INT4_GROUP], _GOOGLE_TOWERS, "0.17.1.a20260602"),
        {"attention": {_INT4: 22}, "mlp": {_INT4: 18}, **_PLAIN_HEAD},
        head=True,
    ),
    Published(
        "google/gemma-4-E2B-it-qat-w4a16-ct",
        "As the 31B; the linears of per-layer embeddings are quantized, and KV-shared layers hold "
        "no keys, by public code that reads the E4B.",
        "e2b",
        {f"{ATTENTION}|{MLP}|{PER_LAYER}": "ct-int4"},
        _compressed_tensors([_INT4_GROUP], _GOOGLE_TOWERS, "0.17.1.a20260602"),
        # Eight layers, four of them without keys and values of their own.
        {"attention": {_INT4: 24}, "mlp": {_INT4: 24}, "per-layer": {_INT4: 17},
         "embeddings": {"BF16": 2}, "lm_head": {"BF16": 1}},
        head=True,
    ),
    Published(
        "RedHatAI/gemma-4-31B-it-NVFP4",
        "Tool, scheme and target class from the model card; all linears and a head of its own by "
        "the 20 billion elements of the hub's listing.",
        "dense_with_towers",
        {f"{ATTENTION}|{MLP}": "ct-nvfp4"},
        _compressed_tensors([_NVFP4_GROUP], _GOOGLE_TOWERS, "0.15.0"),
        {"attention": {_NVFP4: 22}, "mlp": {_NVFP4: 18}, **_PLAIN_HEAD},
        head=True,
    ),
    Published(
        "Firworks/gemma-4-26B-A4B-it-fp8",
        "The beginning of config.json, stored by a search engine: the group and its two targets.",
        "dense_with_towers",
        {f"{ATTENTION}|{MLP}|{EXPERTS}": "ct-fp8"},
        _compressed_tensors(
            [{**_FP8_GROUP, "targets": ["Linear", "MoELinear"]}],
            [TOWER_LINEARS, "model.embed_vision.embedding_projection", LAYER + "router.proj",
             "lm_head"],
            "0.15.0",
        ),
        {"attention": {"FP8": 22}, "mlp": {"FP8": 18}, "experts": {"FP8": 144}, **_MOE},
        text="moe",
    ),
    Published(
        "unsloth/gemma-4-26B-A4B-it-NVFP4",
        "NVFP4 with quantized activations, FP8 W8A8, BF16 and calibrated FP8 KV from Unsloth's "
        "guide; which layers have which is assumed.",
        "dense_with_towers",
        {
            r"layers\.5\.self_attn": "ct-fp8",
            f"{EXPERTS}|{MLP}": "ct-nvfp4",
            r"layers\.[1-4]\.self_attn": "ct-fp8",
        },
        _compressed_tensors(
            [
                {**_FP8_GROUP, "targets": [r"re:.*layers\.[1-5]\.self_attn\.(q|k|v|o)_proj$"]},
                {**_NVFP4_GROUP,
                 "targets": [r"re:.*mlp\.(gate|up|down)_proj$", r"re:.*experts\.\d+\..*_proj$"]},
            ],
            [r"re:.*layers\.0\.self_attn.*", "re:.*vision_tower.*", "re:.*embed_vision.*",
             "re:.*router.*", "lm_head"],
            "0.17.1",
            kv=True,
        ),
        {"attention": {"BF16": 4, "FP8": 18}, "mlp": {_NVFP4: 18}, "experts": {_NVFP4: 144}, **_MOE,
         "KV cache": {"FP8": 1}},
        text="moe",
        kv_scales="ct",
    ),
    Published(
        "Intel/gemma-4-26B-A4B-it-int4-mixed-AutoRound",
        "Two widths by vLLM's kernel choice for it (uint8b128) and by the 5 billion elements that "
        "the hub lists; the config is what auto-round 0.16.1 writes for such a mix.",
        "dense_with_towers",
        {EXPERTS: "words-4", f"{ATTENTION}|{MLP}": "words-8"},
        {
            "autoround_version": "0.16.1", "bits": 4,
            "block_name_to_quantize": "model.language_model.layers", "data_type": "int",
            "enable_quanted_input": False, "extra_config": _MIXED_BITS, "group_size": 32,
            "packing_format": "auto_round:auto_gptq", "quant_method": "auto-round", "sym": True,
        },
        {"attention": {_INT8: 22}, "mlp": {_INT8: 18}, "experts": {_INT4: 144}, **_MOE},
        text="moe",
    ),
    Published(
        "gemma4:12b-nvfp4",
        "The beginning of hf_quant_config.json in another registry: FP8 attention, weight-only "
        "NVFP4 MLPs, FP8 KV; config.json then holds no quantization.",
        "unified",
        {ATTENTION: "modelopt-fp8", MLP: "modelopt-nvfp4-weights"},
        None,
        {"attention": {"FP8": 22}, "mlp": {_NVFP4: 18}, **_TIED, "KV cache": {"FP8": 1}},
        hf_quant_config={
            "quant_algo": "MIXED_PRECISION",
            "kv_cache_quant_algo": "FP8",
            "quantized_layers": _MIXED_LAYERS,
        },
        producer={"name": "modelopt", "version": "0.45.0.dev110+g04f58166a"},
        kv_scales="modelopt",
    ),
)  # fmt: skip
