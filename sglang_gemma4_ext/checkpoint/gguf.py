# SPDX-License-Identifier: Apache-2.0
"""Refuse GGUF files of Gemma 4, whose tensors SGLang cannot map to its classes.

It looks for the layer count at the top level of the configuration, where Gemma 4 has none, and
knows no architecture `gemma4_text`.
"""

from __future__ import annotations

import struct
from pathlib import Path

from sglang_gemma4_ext.checkpoint.files import CheckpointError

_STRING = 8
_ARCHITECTURE = b"general.architecture"


def refuse_gemma4(file: Path) -> None:
    """Raise CheckpointError if `file` is a GGUF file of Gemma 4."""
    if architecture(file).startswith("gemma4"):
        raise CheckpointError(
            f"{file} is a GGUF file of Gemma 4, which SGLang cannot load: give the folder of a "
            "safetensors checkpoint"
        )


def architecture(file: Path) -> str:
    """Return a GGUF file's architecture, which its writers put first; empty where it is not.

    Layout: magic, u32 version, u64 tensors, u64 pairs; a pair is a key, u32 type, value. A string
    is u64 length and bytes.
    """
    with file.open("rb") as stream:
        head = stream.read(4 + 4 + 8 + 8 + 8 + len(_ARCHITECTURE) + 4 + 8)
        if not head.startswith(b"GGUF") or head[32 : 32 + len(_ARCHITECTURE)] != _ARCHITECTURE:
            return ""
        kind, length = struct.unpack("<IQ", head[-12:])
        return stream.read(min(length, 64)).decode(errors="replace") if kind == _STRING else ""
