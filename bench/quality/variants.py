# SPDX-License-Identifier: Apache-2.0
"""Write the demo in every form that is served, and broken on purpose, with server flags.

Each maker writes a checkpoint from the bundled NVFP4 one and returns its folder. Both NVFP4 formats
hold the same codes and scales; BF16 holds their values, rounded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.servers import EXTENSION, STOCK, Side
from sglang_gemma4_ext import demo
from sglang_gemma4_ext.demo.training.faults import WRONG_WINDOW
from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK
from sglang_gemma4_ext.kernels.nvfp4_format import dequantize

Maker = Callable[[Path], Path]
WEIGHTS, CONFIG = "model.safetensors", "config.json"
SCALES = ("weight_scale", "weight_scale_2")
# Without these patches the CPU reference does not start, or ends when the sliding layers' pool is
# full. `patches off` disables the others, and with them the router's scale.
NEEDED = frozenset({"text_only", "cpu_softcap", "cpu_torch_attention"})


@dataclass(frozen=True)
class Variant:
    """Describe a served form of the demo.

    side: who serves it; a failure of stock is a row too
    broken: on purpose; its accuracy must show it
    chat: asked in a chat too, where a reply has a sentence before its letter
    """

    name: str
    make: Maker
    flags: tuple[str, ...] = ()
    side: Side = EXTENSION
    broken: bool = False
    chat: bool = False


def bundled(_: Path) -> Path:
    return demo.model_path()


def bf16(out: Path) -> Path:
    """Round the NVFP4 checkpoint's values to BF16."""
    tensors = load_file(demo.model_path() / WEIGHTS)
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCALES)}
    for name in plain:
        if f"{name}_scale" in tensors:
            scales = tensors[f"{name}_scale"], tensors[f"{name}_scale_2"]
            plain[name] = dequantize(plain[name], *scales, torch.bfloat16)
    return _write(out, plain, quantization=None)


def compressed_tensors(out: Path) -> Path:
    """Write the same codes in the files of compressed-tensors, whose global scale divides."""
    written, linears = {}, set()
    tensors = load_file(demo.model_path() / WEIGHTS)
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and f"{name}_scale" in tensors:
            linears.add(module)
            written[f"{module}.weight_packed"] = tensor
        elif leaf == "weight_scale_2":
            written[f"{module}.weight_global_scale"] = (1 / tensor).reshape(1)
        else:
            written[name] = tensor
    ignored = sorted(
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if name.endswith(".weight") and tensor.dim() == 2 and "embed_tokens" not in name
        and name.removesuffix(".weight") not in linears
    )  # fmt: skip
    return _write(out, written, quantization=_compressed_tensors_config([*ignored, "lm_head"]))


def wrong_window(out: Path) -> Path:
    """Give sliding layers a sixth of their window."""
    shutil.copytree(demo.model_path(), out)
    config = json.loads((out / CONFIG).read_text())
    config["text_config"]["sliding_window"] = WRONG_WINDOW
    (out / CONFIG).write_text(json.dumps(config))
    return out


def swapped_nibbles(out: Path) -> Path:
    """Swap the two codes of each byte."""
    tensors = load_file(demo.model_path() / WEIGHTS)
    for name in [name for name in tensors if f"{name}_scale" in tensors]:
        tensors[name] = (tensors[name] << 4) | (tensors[name] >> 4)
    return _write(out, tensors)


def no_router_scale(out: Path) -> Path:
    """Set a scale that cancels hidden**-0.5 and itself, as in a norm that ignores its weight."""
    tensors = load_file(demo.model_path() / WEIGHTS)
    for name, tensor in tensors.items():
        if name.endswith("router.scale"):
            tensors[name] = torch.full_like(tensor, tensor.numel() ** 0.5)
    return _write(out, tensors)


def _write(
    out: Path, tensors: dict[str, torch.Tensor], quantization: dict | str | None = "as it is"
) -> Path:
    shutil.copytree(demo.model_path(), out)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    if quantization != "as it is":
        (out / "hf_quant_config.json").unlink()
        config = json.loads((out / CONFIG).read_text())
        del config["quantization_config"]
        if quantization is not None:
            config["quantization_config"] = quantization
        (out / CONFIG).write_text(json.dumps(config))
    return out


def _compressed_tensors_config(ignored: list[str]) -> dict:
    weights = {
        "num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group",
        "group_size": BLOCK, "dynamic": False, "observer": "minmax",
    }  # fmt: skip
    group = {"targets": ["Linear"], "weights": weights, "format": "nvfp4-pack-quantized"}
    return {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
    }


def patches_off() -> str:
    """Name all patches that a server without a GPU can run without."""
    from sglang_gemma4_ext.patches.series import PATCHES

    return ",".join(patch.name for patch in PATCHES if patch.name not in NEEDED)


def variants() -> tuple[Variant, ...]:
    """List the variants; the reference, BF16, comes first, and the others are compared with it."""
    draft = ("--speculative-draft-model-path", str(demo.assistant_path()))
    return (
        Variant("BF16", bf16, chat=True),
        Variant("NVFP4, modelopt", bundled, chat=True),
        Variant("NVFP4, compressed-tensors", compressed_tensors),
        Variant("NVFP4 and MTP", bundled, draft, chat=True),
        Variant("BF16, patches off", bf16, ("--gemma4-ext-disable", patches_off()), broken=True),
        Variant("BF16, stock SGLang", bf16, ("--device", "cpu"), STOCK),
        Variant("wrong window", wrong_window, broken=True),
        Variant("router scale ignored", no_router_scale, broken=True),
        Variant("nibbles swapped", swapped_nibbles, broken=True),
    )
