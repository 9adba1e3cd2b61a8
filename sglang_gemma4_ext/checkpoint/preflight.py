# SPDX-License-Identifier: Apache-2.0
"""Check a server's checkpoint before the start, and report in one sentence.

Only headers are read, and neither torch nor sglang is imported. Therefore a checkpoint of any size
takes milliseconds. A hub name is checked where its files are in the local cache.
"""

from __future__ import annotations

import collections
import logging
import re
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.checkpoint import integers
from sglang_gemma4_ext.checkpoint.expected import compare, is_tied, refuse
from sglang_gemma4_ext.checkpoint.files import (
    CheckpointError,
    Tensor,
    check_not_lfs,
    json_integer,
    json_object,
    json_objects,
    json_strings,
    load_json,
    read_headers,
)
from sglang_gemma4_ext.checkpoint.gguf import refuse_gemma4
from sglang_gemma4_ext.checkpoint.hub import HUB_NAME, check_hub_model, whole_snapshot
from sglang_gemma4_ext.checkpoint.model_family import (
    DRAFT_ARCHITECTURES,
    ModelInfo,
    read_model_info,
)
from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.checkpoint.schemes import Quantization
from sglang_gemma4_ext.checkpoint.stored_checks import check_stored
from sglang_gemma4_ext.checkpoint.token_ids import check_token_ids
from sglang_gemma4_ext.checkpoint.unserved import check_head, check_section
from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK as NVFP4_GROUP

_LAYER = re.compile(r"(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(\d{1,6})\.(.+)\.[^.]+")
_REMOTE = re.compile(r"\w+://")
# packed tensor -> the scales that it needs, by format
_MODELOPT = (".weight", (".weight_scale", ".weight_scale_2"))
_COMPRESSED_TENSORS = (".weight_packed", (".weight_scale", ".weight_global_scale"))
_PLAIN = ("BF16", "F16", "F32")
_FLOATS = (*_PLAIN, "F8_E4M3", "F8_E5M2")

logger = logging.getLogger(__name__)


def check_checkpoint(
    path: str,
    *,
    flag: str = "--model-path",
    weights: bool = True,
    tokenizer: bool = True,
    revision: str | None = None,
) -> ModelInfo | None:
    """Check a checkpoint; None where SGLang resolves it: not downloaded yet, a URL, a GGUF file.

    flag: the flag that named it
    weights: whether the weights are read at all (not with --load-format dummy)
    tokenizer: whether the tokenizer is read from this folder
    revision: the revision of a hub name
    Raises CheckpointError.
    """
    folder = Path(path)
    if _REMOTE.match(path) or folder.suffix == ".gguf":
        if folder.is_file():
            refuse_gemma4(folder)
        return None
    if folder.is_file():
        raise CheckpointError(f"{flag} {path} is a file: give the folder that holds it")
    if not folder.is_dir():
        if not HUB_NAME.fullmatch(path):
            raise CheckpointError(f"{flag} {path} does not exist: correct the path")
        check_hub_model(path, flag=flag, revision=revision)
        snapshot = whole_snapshot(path, revision)
        if snapshot is None:
            return None
        folder = snapshot
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no config.json (expected the folder that holds "
            "config.json and *.safetensors)"
        )
    load_json(config)
    info = read_model_info(str(folder))
    if info is None or not info.is_gemma4:
        return info
    if info.architecture in DRAFT_ARCHITECTURES and flag == "--model-path":
        raise CheckpointError(
            f"{path} holds a draft model ({info.architecture}), which cannot serve alone: "
            "name it with --speculative-draft-model-path"
        )
    if tokenizer:
        check_tokenizer(folder)
    json_object(info.config, "text_config", config)
    json_objects(info.text, "per_layer_config", config)
    check_token_ids(info.config, info.text, config)
    kinds = _layer_kinds(info.text, config)
    quantization = describe(info)
    check_section(info.config, config)
    _check_group_size(quantization)
    tensors = read_headers(folder) if weights else {}
    integers.check_declared(quantization, info, tensors)
    if tensors:
        if not is_tied(info):
            check_head(tensors, str(folder))
        _check_scales(tensors, quantization, folder)
        integers.check_tensors(tensors, quantization, info.text.get("hidden_size"))
        check_stored(tensors, quantization)
        _check_names(tensors, info, quantization)
        _check_layers(tensors, kinds, quantization, info.text.get("hidden_size"))
        _log_unknown(tensors, info, quantization)
    return info


def check_tokenizer(folder: Path) -> None:
    """Raise CheckpointError on a tokenizer.json that is missing or visibly not a JSON object."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json: copy it from the original model, or name that with "
            "--tokenizer-path"
        )
    with file.open("rb") as stream:
        head = stream.read(64)
        stream.seek(max(0, file.stat().st_size - 64))
        tail = stream.read()
    check_not_lfs(file, head)
    if not head.lstrip().startswith(b"{") or not tail.rstrip().endswith(b"}"):
        raise CheckpointError(f"{file} is truncated or not JSON; download it again")


def _check_group_size(quantization: Quantization) -> None:
    for scheme in quantization.schemes:
        if scheme.format == "nvfp4" and scheme.group != NVFP4_GROUP:
            raise CheckpointError(
                f"{quantization.file} declares NVFP4 with group size {scheme.group}; NVFP4 has one "
                f"scale per {NVFP4_GROUP} weights, so quantize again with group_size={NVFP4_GROUP}"
            )


def _check_names(tensors: dict[str, Tensor], info: ModelInfo, quantization: Quantization) -> None:
    """Refuse a checkpoint that lacks tensors; log tensors without a place in the model."""
    found = compare(tensors, info, quantization)
    if found.missing:
        refuse(info.path, found)
    if found.unknown:
        logger.warning(
            "%s holds %d tensors that Gemma 4 has no place for, first %s; they are not loaded",
            *(info.path, len(found.unknown), found.unknown[0]),
        )


def _log_unknown(tensors: dict[str, Tensor], info: ModelInfo, quantization: Quantization) -> None:
    """Say once which layers are in a format that nobody here knows."""
    packed = (
        name.rpartition(".")[0]
        for name, tensor in tensors.items()
        if _LAYER.fullmatch(name) and not (name.endswith(".weight") and tensor.dtype in _PLAIN)
    )
    layers = [m for m in dict.fromkeys(packed) if quantization.of(m).format == "unknown"]
    if layers:
        logger.warning(
            "%s: %d layers are in a format that is not known here (%s), first %s; they are passed "
            "on to SGLang unchecked",
            *(info.path, len(layers), quantization.label or quantization.tool, layers[0]),
        )


def _check_scales(tensors: dict[str, Tensor], quantization: Quantization, folder: Path) -> None:
    if not quantization.declares("nvfp4"):
        names = ("weight_scale_2", "weight_global_scale")
        undeclared = any(name.rpartition(".")[2] in names for name in tensors)
        if undeclared and not quantization.declares("unknown"):
            raise CheckpointError(
                f"{folder} holds NVFP4 tensors that neither config.json nor hf_quant_config.json "
                "declares: copy both from where the weights came from"
            )
        return
    for name, tensor in tensors.items():
        if tensor.dtype != "U8":
            continue
        for suffix, scales in (_MODELOPT, _COMPRESSED_TENSORS):
            module = name.removesuffix(suffix)
            if name.endswith(suffix) and quantization.of(module).format != "unknown":
                _check_packed(name, tensors, [module + scale for scale in scales])


def _check_packed(name: str, tensors: dict[str, Tensor], scales: list[str]) -> None:
    missing = [scale for scale in scales if scale not in tensors]
    if missing:
        raise CheckpointError(
            f"NVFP4 weight {name} has no {missing[0].rpartition('.')[2]}: the checkpoint "
            "is incomplete, export or download it again"
        )
    *outer, half = tensors[name].shape or (0,)
    expected, found = (*outer, half * 2 // NVFP4_GROUP), tensors[scales[0]].shape
    if found != expected:
        raise CheckpointError(
            f"NVFP4 weight {name} has block scales of shape {list(found)} where "
            f"{list(expected)} is expected: group size {NVFP4_GROUP}, plain row-major scales; "
            "pre-interleaved (swizzled) scales must be exported again without swizzling"
        )


def _layer_kinds(text: dict[str, Any], file: Path) -> list[tuple[str, bool]]:
    """Return (type, whether it has keys of its own) of each layer."""
    layer_types = json_strings(text, "layer_types", file)
    own_kv = len(layer_types) - (json_integer(text, "num_kv_shared_layers", file) or 0)
    return [(kind, index < own_kv) for index, kind in enumerate(layer_types)]


def _check_layers(
    tensors: dict[str, Tensor],
    kinds: list[tuple[str, bool]],
    quantization: Quantization,
    hidden: object,
) -> None:
    """Refuse a layer whose modules differ in shape from other layers of its kind.

    SGLang would start with a tensor that is too small, and answer from uninitialised memory.
    """
    shapes: dict[tuple[Any, str], dict[int, tuple[int, ...]]] = {}  # of a module by layer
    for name in tensors:
        match = _LAYER.fullmatch(name)
        if match is None or ".experts." in name or int(match[1]) >= len(kinds):
            continue
        shape = _logical_shape(name, tensors, quantization, hidden)
        if shape is not None:
            index, module = int(match[1]), match[2]
            shapes.setdefault((kinds[index], module), {})[index] = shape
    for (_, module), by_layer in shapes.items():
        found = collections.Counter(by_layer.values()).most_common()
        if len(found) > 1:
            odd = next(index for index, shape in by_layer.items() if shape == found[-1][0])
            raise CheckpointError(
                f"layer {odd} has {module}.weight of shape {list(found[-1][0])} where other layers "
                f"of its kind have {list(found[0][0])}: export or download the checkpoint again"
            )


def _logical_shape(
    name: str, tensors: dict[str, Tensor], quantization: Quantization, hidden: object
) -> tuple[int, ...] | None:
    """Return the shape of the weight that a tensor encodes; None for an unknown packing."""
    tensor = tensors[name]
    if not name.endswith((".weight", ".weight_packed")) or not tensor.shape:
        return None
    if tensor.dtype in _FLOATS:
        return tensor.shape
    *outer, last = tensor.shape
    scheme = quantization.of(name.rpartition(".")[0])
    if tensor.dtype == "U8" and scheme.format == "nvfp4":
        return (*outer, last * 2)
    if tensor.dtype == "I32" and scheme.format == "int" and scheme.bits == 4:
        bits = integers.stored_bits(name, scheme, tensors, hidden)
        return (*outer, last * 32 // bits) if bits else None
    return None
