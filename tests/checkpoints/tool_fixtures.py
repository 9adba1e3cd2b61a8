# SPDX-License-Identifier: Apache-2.0
"""Copy the committed checkpoints of real tools, each beside its dequantized reference.

fixtures/README.md says how they were made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from bench.checkpoints.tokenizer import tokenizer
from tests.checkpoints import int4, int4_words
from tests.checkpoints.reference import write_reference

FIXTURES = Path(__file__).parent / "fixtures"
# Name -> kind of the tiny checkpoint that it was made of.
KINDS = {
    "llmcompressor_gptq_moe": "moe",
    "llmcompressor_awq_dense": "dense",
    "autoround_mixed_moe": "moe",
    "autoround_awq_dense": "dense",
    "gptqmodel_moe": "moe",
}


def copy(name: str, out: Path) -> Path:
    """Copy a fixture to `out`, write `out` + "_dq", and return `out`."""
    shutil.copytree(FIXTURES / name, out, ignore=shutil.ignore_patterns("dequantized.json"))
    tokenizer().save_pretrained(out)
    write_reference(out, lambda leaves: dequantize(name, leaves))
    return out


def dequantize(name: str, leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return a weight in fp32 [N, K]."""
    if "weight_packed" in leaves:
        return int4.dequantize_module(leaves, symmetric="weight_zero_point" not in leaves)
    return int4_words.decode(leaves, "awq" if "awq" in name else "gptq", 1)


def modules(name: str) -> dict[str, dict[str, torch.Tensor]]:
    """Return the tensors of each packed linear, by leaf name."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for path, tensor in load_file(FIXTURES / name / "model.safetensors").items():
        module, _, leaf = path.rpartition(".")
        found.setdefault(module, {})[leaf] = tensor
    packed = ("qweight", "weight_packed")
    return {module: leaves for module, leaves in found.items() if leaves.keys() & {*packed}}


def digests(name: str) -> dict[str, str]:
    """Return the digests that the tool's own dequantization gave; empty without the file."""
    file = FIXTURES / name / "dequantized.json"
    return json.loads(file.read_text()) if file.is_file() else {}
