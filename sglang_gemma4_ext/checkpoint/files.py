# SPDX-License-Identifier: Apache-2.0
"""Read a checkpoint's files: check that they are complete, and list their tensors."""

from __future__ import annotations

import json
import operator
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.safetensors")
_LFS = b"version https://git-lfs"
# safetensors' own limit, so that a file of another kind is not read whole for its header.
_MAX_HEADER_BYTES = 100_000_000


class CheckpointError(ValueError):
    """Report a checkpoint that cannot be served; the message is one sentence for the user."""

    def __init__(self, message: str):
        # Names quoted here come from the checkpoint and may hold line breaks.
        super().__init__(" ".join(message.splitlines()))


@dataclass(frozen=True)
class Tensor:
    """Describe a tensor as in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder's safetensors files.

    Raises CheckpointError on a missing or damaged file.
    """
    files = {file.name: file for file in sorted(folder.glob("*.safetensors"))}
    wanted = _wanted_files(folder, files)
    missing = sorted(wanted - files.keys())
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(wanted)} weight files, {missing[0]} first; "
            "download them again"
        )
    if not files and not list(folder.glob("*.bin")):
        raise CheckpointError(f"{folder} has no *.safetensors weights: download them again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(wanted):
        tensors.update(read_header(files[name]))
    return tensors


def _wanted_files(folder: Path, files: dict[str, Path]) -> set[str]:
    """Return the weight files that the index lists, or that the files' own numbering implies."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = load_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index} has no weight_map; download it again")
        if not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{index} has a weight_map without file names; download it again")
        return set(weight_map.values())
    wanted = set(files)
    for shard in filter(None, map(_SHARD.fullmatch, files)):
        stem, count = shard.groups()
        wanted |= {f"{stem}-{i:05d}-of-{count}.safetensors" for i in range(1, int(count) + 1)}
    return wanted


def read_header(file: Path) -> dict[str, Tensor]:
    """Read the tensors of one safetensors file, and compare its size with its header.

    Layout: u64 little-endian header length, header as JSON, tensor bytes at header offsets.
    Raises CheckpointError if they disagree.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(len(_LFS))
        check_not_lfs(file, start)
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{file} is truncated within its header; download it again")
        stream.seek(8)
        text = stream.read(length) if length <= _MAX_HEADER_BYTES else b""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        ends = [operator.index(entry["data_offsets"][1]) for entry in header.values()]
        tensors = {name: _tensor(entry) for name, entry in header.items()}
        end = max(ends, default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError):
        raise CheckpointError(f"{file} is not a safetensors file; download it again") from None
    if size < 8 + length + end:
        raise CheckpointError(
            f"{file} is truncated: its header promises {8 + length + end} bytes and it has "
            f"{size}; download it again"
        )
    return tensors


def _tensor(entry: dict[str, Any]) -> Tensor:
    return Tensor(str(entry["dtype"]), tuple(map(operator.index, entry["shape"])))


def check_not_lfs(file: Path, head: bytes) -> None:
    """Raise CheckpointError if a file's first bytes are a git-lfs pointer."""
    if head.startswith(_LFS):
        raise CheckpointError(
            f"{file} is a git-lfs pointer, not the file itself: run `git lfs pull` in its folder"
        )


def load_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises CheckpointError."""
    try:
        content = json.loads(file.read_text())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not valid JSON; download it again")
    return content


def json_object(parent: dict[str, Any], field: str, file: Path) -> dict[str, Any]:
    """Return an object within a file's JSON, empty if absent or null. Raises CheckpointError."""
    value = parent.get(field)
    if value is None:
        return {}
    return _of_type(value, dict, field, file, "an object")


def json_objects(parent: dict[str, Any], field: str, file: Path) -> list[dict[str, Any]]:
    """Return the members of an object of objects. Raises CheckpointError."""
    members = json_object(parent, field, file)
    return [
        _of_type(member, dict, f"{field}.{name}", file, "an object")
        for name, member in members.items()
    ]


def json_integer(parent: dict[str, Any], field: str, file: Path) -> int | None:
    """Return a whole number within a file's JSON, or None. Raises CheckpointError."""
    value = parent.get(field)
    return None if value is None else _of_type(value, int, field, file, "a whole number")


def json_strings(parent: dict[str, Any], field: str, file: Path) -> list[str]:
    """Return a list of strings within a file's JSON, empty if absent. Raises CheckpointError."""
    value = parent.get(field)
    values = [] if value is None else _of_type(value, list, field, file, "a list")
    return [_of_type(member, str, field, file, "a list of strings") for member in values]


def _of_type(value: Any, kind: type, field: str, file: Path, wanted: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        shown = textwrap.shorten(json.dumps(value), 60)
        raise CheckpointError(f"{file} has {field} {shown} where {wanted} is expected")
    return value
