# SPDX-License-Identifier: Apache-2.0
"""Look at a checkpoint before SGLang does, and say in one sentence what is wrong with it.

Only headers are read: the cost is milliseconds for any size. Hub names are left to SGLang.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.model_family import ModelInfo, read_model_info

GROUP_SIZE = 16
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_REMOTE = re.compile(r"\w+://")
# packed tensor -> the scales without which it means nothing, by format
_MODELOPT = (".weight", (".weight_scale", ".weight_scale_2"))
_COMPRESSED_TENSORS = (".weight_packed", (".weight_scale", ".weight_global_scale"))


class CheckpointError(ValueError):
    """A checkpoint that cannot be served; the message is one sentence for the user."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as a safetensors header describes it."""

    dtype: str
    shape: tuple[int, ...]


def check_checkpoint(path: str, *, weights: bool = True) -> ModelInfo | None:
    """Check a local checkpoint; None for a hub name, a URL or a file, which SGLang resolves.

    weights: whether the weights are read at all (not with --load-format dummy).
    Raises CheckpointError.
    """
    folder = Path(path)
    if folder.is_file() or _REMOTE.match(path):
        return None
    if not folder.is_dir():
        if _HUB_NAME.fullmatch(path):
            return None
        raise CheckpointError(f"--model-path {path} does not exist")
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(
            f"{path} is not a checkpoint: it has no config.json (expected the folder that holds "
            "config.json and *.safetensors)"
        )
    info = read_model_info(path)
    if info is None:
        raise CheckpointError(f"{config} is not valid JSON; download it again")
    if not info.is_gemma4:
        return info
    _check_group_size(folder, info)
    if weights:
        _check_scales(read_headers(folder))
    return info


def read_headers(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files. Raises CheckpointError on a damaged file."""
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        names = set(_load_json(index).get("weight_map", {}).values())
        missing = sorted(names - {file.name for file in files})
        if missing:
            raise CheckpointError(
                f"{folder} lacks {len(missing)} of {len(names)} weight files, {missing[0]} first; "
                "download them again"
            )
        files = [file for file in files if file.name in names]
    if not files and not list(folder.glob("*.bin")):
        raise CheckpointError(f"{folder} has no *.safetensors weights")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(read_header(file))
    return tensors


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, whose size must be what its header promises.

    Layout: u64 little-endian header length, header as JSON, tensor bytes at header offsets.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{file} is truncated within its header; download it again")
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise CheckpointError(f"{file} is not a safetensors file") from None
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < 8 + length + end:
        raise CheckpointError(
            f"{file} is truncated: its header promises {8 + length + end} bytes and it has "
            f"{size}; download it again"
        )
    return {name: Tensor(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


def _check_group_size(folder: Path, info: ModelInfo) -> None:
    for where, size in _group_sizes(folder, info):
        if size != GROUP_SIZE:
            raise CheckpointError(
                f"{where} declares NVFP4 with group size {size}; NVFP4 has one scale per "
                f"{GROUP_SIZE} weights, so quantize again with group_size={GROUP_SIZE}"
            )


def _group_sizes(folder: Path, info: ModelInfo):
    """(where, group size) of each NVFP4 declaration, of ModelOpt or compressed-tensors."""
    legacy = folder / "hf_quant_config.json"
    if legacy.is_file():
        quantization = _load_json(legacy).get("quantization", {})
        if "NVFP4" in str(quantization.get("quant_algo", "")):
            yield legacy, quantization.get("group_size", GROUP_SIZE)
    config = info.config.get("quantization_config") or {}
    algorithm = str(config.get("quant_algo", ""))
    for group in (config.get("config_groups") or {}).values():
        weights = group.get("weights") or {}
        is_nvfp4 = "NVFP4" in algorithm or "nvfp4" in str(
            group.get("format") or config.get("format")
        )
        if is_nvfp4 and weights.get("num_bits") == 4:
            yield folder / "config.json", weights.get("group_size", GROUP_SIZE)


def _check_scales(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != "U8":
            continue
        for suffix, scales in (_MODELOPT, _COMPRESSED_TENSORS):
            if not name.endswith(suffix):
                continue
            layer = name.removesuffix(suffix)
            missing = [layer + scale for scale in scales if layer + scale not in tensors]
            if missing:
                raise CheckpointError(
                    f"NVFP4 weight {name} has no {missing[0].rpartition('.')[2]}: the checkpoint "
                    "is incomplete, export or download it again"
                )
            _check_scale_shape(name, tensor, tensors[layer + scales[0]])


def _check_scale_shape(name: str, packed: Tensor, scale: Tensor) -> None:
    *outer, half = packed.shape
    expected = (*outer, half * 2 // GROUP_SIZE)
    if scale.shape != expected:
        raise CheckpointError(
            f"NVFP4 weight {name} has block scales of shape {list(scale.shape)} where "
            f"{list(expected)} is expected: group size {GROUP_SIZE}, plain row-major scales; "
            "pre-interleaved (swizzled) scales must be exported again without swizzling"
        )


def _load_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError:
        raise CheckpointError(f"{file} is not valid JSON; download it again") from None
