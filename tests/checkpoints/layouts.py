# SPDX-License-Identifier: Apache-2.0
"""Write tiny checkpoints in layouts that users have, each beside one that transformers reads.

Each function writes `out` and its reference, the same folder with `_dq` appended, and returns
`out`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
LAYERS = "model.language_model.layers"


def _write(src: Path, out: Path, change: Callable[[Tensors], Tensors]) -> Path:
    shutil.copytree(src, out)
    tensors = change(load_file(src / "model.safetensors"))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def untied(src: Path, out: Path) -> Path:
    """Write an lm_head of its own, which only the top level of config.json declares."""
    draw = torch.Generator().manual_seed(3)

    def add_head(tensors: Tensors) -> Tensors:
        embedding = tensors["model.language_model.embed_tokens.weight"]
        noise = torch.randn(embedding.shape, generator=draw).to(embedding.dtype)
        return {**tensors, "lm_head.weight": embedding + embedding.abs() * noise}

    _write(src, out, add_head)
    config = json.loads((out / "config.json").read_text())
    config["tie_word_embeddings"] = False
    config["text_config"].pop("tie_word_embeddings", None)
    (out / "config.json").write_text(json.dumps(config))
    shutil.copytree(out, out.with_name(out.name + "_dq"))
    return out


def redundant(src: Path, out: Path) -> Path:
    """Write the tensors that no layer uses: keys of KV-shared layers, values of K = V layers."""
    config = json.loads((src / "config.json").read_text())["text_config"]
    own = len(config["layer_types"]) - (config.get("num_kv_shared_layers") or 0)
    draw = torch.Generator().manual_seed(4)

    def add(tensors: Tensors) -> Tensors:
        added = {}
        for index, kind in enumerate(config["layer_types"]):
            path = f"{LAYERS}.{index}.self_attn"
            owner = (
                index
                if index < own
                else max(i for i in range(own) if config["layer_types"][i] == kind)
            )
            for leaf in ("k_proj", "v_proj", "k_norm"):
                name = f"{path}.{leaf}.weight"
                model = tensors.get(f"{LAYERS}.{owner}.self_attn.{leaf}.weight")
                if model is None:  # K = V
                    model = tensors[f"{LAYERS}.{owner}.self_attn.k_proj.weight"]
                if name not in tensors:
                    added[name] = torch.randn(model.shape, generator=draw).to(model.dtype)
        assert added
        return tensors | added

    shutil.copytree(src, out.with_name(out.name + "_dq"))
    return _write(src, out, add)


def renamed(usual: str, other: str) -> Callable[[Path, Path], Path]:
    """Return a writer that puts the prefix `other` in the place of `usual`."""

    def write(src: Path, out: Path) -> Path:
        shutil.copytree(src, out.with_name(out.name + "_dq"))
        return _write(
            src, out, lambda tensors: {
                other + name.removeprefix(usual) if name.startswith(usual) else name: tensor
                for name, tensor in tensors.items()
            }
        )  # fmt: skip

    return write


def int8_head(src: Path, out: Path) -> Path:
    """Write `src` as it is; the reference has the tied embedding as --gemma4-head int8 rounds it.

    Each row has one scale, its largest magnitude / 127. The quotient in fp32 decides ties: half of
    the largest magnitude is one.
    """
    shutil.copytree(src, out)

    def rounded(tensors: Tensors) -> Tensors:
        (name,) = (name for name in tensors if name.endswith("embed_tokens.weight"))
        rows = tensors[name].float().numpy()
        scale = np.abs(rows).max(1, keepdims=True) / np.float32(127)
        return {**tensors, name: torch.from_numpy(np.rint(rows / scale) * scale)}

    _write(src, out.with_name(out.name + "_dq"), rounded)
    return out
