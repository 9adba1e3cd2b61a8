# SPDX-License-Identifier: Apache-2.0
"""Record how each layer of a checkpoint is quantized.

A layer is named as in the checkpoint, without the tensor's last part:
`model.language_model.layers.0.mlp.up_proj`.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MODELOPT = "modelopt"
COMPRESSED_TENSORS = "compressed-tensors"
# Tools that pack integers in words, in-features first.
INTEGER_WORDS = ("gptq", "awq", "auto-round", "autoround", "intel/auto-round")

Format = Literal["plain", "nvfp4", "fp8", "int", "bitsandbytes", "unknown"]
Match = Literal["name", "wildcard", "regex", "part"]


@dataclass(frozen=True)
class Scheme:
    """Describe how the weights of one layer are stored.

    bits: of one weight, None if the files do not say
    group: weights along K that share a scale; None for scales per row, tensor or block
    zeros: whether each scale of an integer format has a zero point
    reordered: whether in-features are in another order than the weights' (act-order, g_idx)
    """

    format: Format
    bits: int | None = None
    group: int | None = None
    zeros: bool = False
    reordered: bool = False


PLAIN = Scheme("plain")
UNKNOWN = Scheme("unknown")


@dataclass(frozen=True)
class Rule:
    """Give the scheme of the layers whose name matches.

    match: `name` is the whole name or a module above the layer; `wildcard` has `*` as in a shell;
        `regex` matches from the start of the name; `part` is found anywhere in it
    """

    pattern: str
    scheme: Scheme
    match: Match = "name"

    def applies_to(self, layer: str) -> bool:
        """Tell whether a layer's name matches, in any spelling of the tools."""
        for name in _spellings(layer):
            if self.match == "name" and (name == self.pattern or name.startswith(self._above)):
                return True
            if self.match == "wildcard" and fnmatch.fnmatchcase(name, self.pattern):
                return True
            if self.match == "regex" and re.match(self.pattern, name):
                return True
            if self.match == "part" and self.pattern in name:
                return True
        return False

    @property
    def _above(self) -> str:
        return self.pattern + "."


@dataclass(frozen=True)
class Quantization:
    """Hold what a checkpoint declares.

    tool: `quant_method` of the file, empty for a checkpoint that is not quantized
    label: what users call the format, such as NVFP4 or W4A16
    default: the scheme of linear layers without a rule; the first rule that matches decides
    kv_cache: the scheme of keys and values, None if the checkpoint does not quantize them
    per_layer: whether ModelOpt gave every layer its own algorithm (MIXED_PRECISION)
    file: where it is declared, or None
    """

    tool: str = ""
    label: str = ""
    default: Scheme = PLAIN
    rules: tuple[Rule, ...] = ()
    kv_cache: Scheme | None = None
    per_layer: bool = False
    file: Path | None = None

    def of(self, layer: str) -> Scheme:
        """Return the scheme of one linear layer or of a layer's experts."""
        return next((rule.scheme for rule in self.rules if rule.applies_to(layer)), self.default)

    @property
    def schemes(self) -> frozenset[Scheme]:
        """Return every scheme that some layer may have."""
        return frozenset({self.default, *(rule.scheme for rule in self.rules)})

    def declares(self, fmt: Format) -> bool:
        return any(scheme.format == fmt for scheme in self.schemes)

    @property
    def nvfp4_tool(self) -> str | None:
        """Return MODELOPT or COMPRESSED_TENSORS if some layers are NVFP4, else None."""
        return self.tool if self.declares("nvfp4") else None


def _spellings(layer: str) -> tuple[str, ...]:
    """List the names that tools use for one layer of the language model."""
    inner = layer.removeprefix("model.").removeprefix("language_model.").removeprefix("model.")
    prefixes = ("", "model.", "language_model.", "model.language_model.", "language_model.model.")
    return tuple(dict.fromkeys([layer, *(prefix + inner for prefix in prefixes)]))
