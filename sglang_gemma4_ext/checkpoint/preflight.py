# SPDX-License-Identifier: Apache-2.0
"""Look at a server's checkpoint and address first, and say in one sentence what is wrong.

Only headers are read, and neither torch nor sglang is imported: milliseconds for a checkpoint of
any size. Hub names are left to SGLang.
"""

from __future__ import annotations

import collections
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from sglang_gemma4_ext.checkpoint.model_family import (
    DRAFT_ARCHITECTURES,
    ModelInfo,
    read_model_info,
)

GROUP_SIZE = 16
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LAYER = re.compile(r"(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(\d{1,6})\.(.+)\.[^.]+")
_REMOTE = re.compile(r"\w+://")
# packed tensor -> the scales without which it means nothing, by format
_MODELOPT = (".weight", (".weight_scale", ".weight_scale_2"))
_COMPRESSED_TENSORS = (".weight_packed", (".weight_scale", ".weight_global_scale"))


def check_address(host: str, port: int) -> None:
    """Raise ValueError unless a server could listen there now: it will, minutes later."""
    # Port 0 would be any free one, but SGLang sends its own warm-up request to the number given.
    if not 1 <= port <= 65535:
        raise ValueError(f"--port {port} is not between 1 and 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except socket.gaierror:
        raise ValueError(f"--host {host} is not an address of this machine") from None
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host} port {port} ({error.strerror}): is another server running "
            "there? Choose with --port and --host"
        ) from None


def check_checkpoint(
    path: str, *, flag: str = "--model-path", weights: bool = True, tokenizer: bool = True
) -> ModelInfo | None:
    """Check a local checkpoint; None for a hub name, a URL or a GGUF file, which SGLang resolves.

    flag: the flag that named it.
    weights: whether the weights are read at all (not with --load-format dummy).
    tokenizer: whether the tokenizer is read from this folder.
    Raises CheckpointError.
    """
    folder = Path(path)
    if _REMOTE.match(path) or folder.suffix == ".gguf":
        return None
    if folder.is_file():
        raise CheckpointError(f"{flag} {path} is a file: give the folder that holds it")
    if not folder.is_dir():
        if _HUB_NAME.fullmatch(path):
            return None
        raise CheckpointError(f"{flag} {path} does not exist")
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(
            f"{path} is not a checkpoint: it has no config.json (expected the folder that holds "
            "config.json and *.safetensors)"
        )
    load_json(config)
    info = read_model_info(path)
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
    kinds = _layer_kinds(info.text, config)
    _check_group_size(folder, info)
    if weights:
        tensors = read_headers(folder)
        _check_scales(tensors, declares_nvfp4(folder, info), folder)
        _check_layers(tensors, kinds)
    return info


def check_tokenizer(folder: Path) -> None:
    """Raise CheckpointError on a tokenizer.json that is missing or visibly no JSON object."""
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


def declares_nvfp4(folder: Path, info: ModelInfo) -> bool:
    """Whether config.json or hf_quant_config.json says that there are NVFP4 weights."""
    return any(True for _ in _group_sizes(folder, info))


def _check_group_size(folder: Path, info: ModelInfo) -> None:
    for where, size in _group_sizes(folder, info):
        if size != GROUP_SIZE:
            raise CheckpointError(
                f"{where} declares NVFP4 with group size {size}; NVFP4 has one scale per "
                f"{GROUP_SIZE} weights, so quantize again with group_size={GROUP_SIZE}"
            )


def _group_sizes(folder: Path, info: ModelInfo) -> Iterator[tuple[Path, int]]:
    """(where, group size) of each NVFP4 declaration, of ModelOpt or compressed-tensors."""
    legacy = folder / "hf_quant_config.json"
    if legacy.is_file():
        yield from ((legacy, size) for size in _modelopt_sizes(load_json(legacy), legacy))
    file = folder / "config.json"
    config = json_object(info.config, "quantization_config", file)
    if config.get("quant_method") == "compressed-tensors":
        sizes = _compressed_tensors_sizes(config, file)
    else:
        sizes = _modelopt_sizes(config, file)
    yield from ((file, size) for size in sizes)


def _modelopt_sizes(config: dict[str, Any], file: Path) -> Iterator[int]:
    """ModelOpt: one algorithm for all layers, or `quantized_layers` with one for each."""
    config = json_object(config, "quantization", file) or config
    for part in (config, *json_objects(config, "quantized_layers", file)):
        if "NVFP4" not in str(part.get("quant_algo")):
            continue
        groups = json_objects(part, "config_groups", file)
        for weights in [json_object(group, "weights", file) for group in groups] or [part]:
            if weights.get("num_bits", 4) == 4:
                yield json_integer(weights, "group_size", file) or GROUP_SIZE


def _compressed_tensors_sizes(config: dict[str, Any], file: Path) -> Iterator[int]:
    for group in json_objects(config, "config_groups", file):
        weights = json_object(group, "weights", file)
        if str(group.get("format") or config.get("format")).startswith("nvfp4"):
            yield json_integer(weights, "group_size", file) or GROUP_SIZE


def _check_scales(tensors: dict[str, Tensor], declared: bool, folder: Path) -> None:
    if not declared:
        names = ("weight_scale_2", "weight_global_scale")
        if any(name.rpartition(".")[2] in names for name in tensors):
            raise CheckpointError(
                f"{folder} holds NVFP4 tensors that neither config.json nor hf_quant_config.json "
                "declares: copy both from where the weights came from"
            )
        return
    for name, tensor in tensors.items():
        if tensor.dtype != "U8":
            continue
        for suffix, scales in (_MODELOPT, _COMPRESSED_TENSORS):
            if name.endswith(suffix):
                _check_packed(name, tensors, [name.removesuffix(suffix) + s for s in scales])


def _check_packed(name: str, tensors: dict[str, Tensor], scales: list[str]) -> None:
    missing = [scale for scale in scales if scale not in tensors]
    if missing:
        raise CheckpointError(
            f"NVFP4 weight {name} has no {missing[0].rpartition('.')[2]}: the checkpoint "
            "is incomplete, export or download it again"
        )
    *outer, half = tensors[name].shape or (0,)
    expected, found = (*outer, half * 2 // GROUP_SIZE), tensors[scales[0]].shape
    if found != expected:
        raise CheckpointError(
            f"NVFP4 weight {name} has block scales of shape {list(found)} where "
            f"{list(expected)} is expected: group size {GROUP_SIZE}, plain row-major scales; "
            "pre-interleaved (swizzled) scales must be exported again without swizzling"
        )


def _layer_kinds(text: dict[str, Any], file: Path) -> list[tuple[str, bool]]:
    """(type, whether it has keys of its own) of each layer."""
    layer_types = json_strings(text, "layer_types", file)
    own_kv = len(layer_types) - (json_integer(text, "num_kv_shared_layers", file) or 0)
    return [(kind, index < own_kv) for index, kind in enumerate(layer_types)]


def _check_layers(tensors: dict[str, Tensor], kinds: list[tuple[str, bool]]) -> None:
    """Layers of one kind have the same modules of the same shapes, quantized or not.

    SGLang starts without a tensor, or with one too small, and answers from what memory held.
    """
    shapes: dict[tuple[Any, str], dict[int, tuple[int, ...]]] = {}  # of a module by layer
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match is None or ".experts." in name or int(match[1]) >= len(kinds):
            continue
        if name.endswith((".weight", ".weight_packed")) and tensor.shape:
            index, module = int(match[1]), match[2]
            *outer, last = tensor.shape
            shape = (*outer, last * 2 if tensor.dtype == "U8" else last)
            shapes.setdefault((kinds[index], module), {})[index] = shape
    for (kind, module), by_layer in shapes.items():
        _check_module(module, by_layer, [i for i, other in enumerate(kinds) if other == kind])


def _check_module(module: str, shapes: dict[int, tuple[int, ...]], members: list[int]) -> None:
    missing = [index for index in members if index not in shapes]
    if missing:
        raise CheckpointError(
            f"layer {missing[0]} has no {module}.weight, which other layers of its kind have: the "
            "checkpoint is incomplete, export or download it again"
        )
    found = collections.Counter(shapes.values()).most_common()
    if len(found) > 1:
        odd = next(index for index, shape in shapes.items() if shape == found[-1][0])
        raise CheckpointError(
            f"layer {odd} has {module}.weight of shape {list(found[-1][0])} where other layers of "
            f"its kind have {list(found[0][0])}: export or download the checkpoint again"
        )
