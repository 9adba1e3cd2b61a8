# SPDX-License-Identifier: Apache-2.0
"""Write NVFP4 checkpoints with the real exporters, and references by their dequantization.

nvidia-modelopt 0.47 (the `test` extra) shares an environment with SGLang 0.5.23 and exports Gemma 4
dense and MoE: it splits the fused experts itself. compressed-tensors is a dependency of SGLang.

llm-compressor 0.14 pins another torch and transformers. What it adds to compressed-tensors (a
linear per expert, one scale for stacked linears) is done here. `fixtures/` holds its own output.
GPTQModel's and AutoRound's stand beside it.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.checkpoints.tokenizer import tokenizer
from tests.checkpoints.nvfp4 import STACK
from tests.checkpoints.reference import copy_companions, unfuse_experts, write_reference

FIXTURE = Path(__file__).parent / "fixtures" / "llmcompressor_moe"


def modelopt(
    src: Path, out: Path, *, preset: str = "NVFP4_DEFAULT_CFG", kv_scales: bool = False
) -> Path:
    """Write `out` with nvidia-modelopt and `out` + "_dq" beside it, and return `out`.

    preset: a name in modelopt.torch.quantization, such as NVFP4_DEFAULT_CFG (W4A4),
        W4A16_NVFP4_CFG, NVFP4_MLP_ONLY_CFG (attention left alone) or NVFP4_EXPERTS_ONLY_CFG
    kv_scales: calibrate FP8 KV-cache scales as well
    The tool does not support towers with a K that is not a multiple of 16.
    """
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    recipe = copy.deepcopy(getattr(mtq, preset))
    if kv_scales:
        recipe["quant_cfg"] += mtq.FP8_KV_CFG["quant_cfg"]
    model = mtq.quantize(load(src), recipe, calibrate)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=out)
    return finish(src, out, modelopt_dequantize)


def compressed_tensors(src: Path, out: Path, *, scheme: str = "NVFP4A16") -> Path:
    """Write `out` with compressed-tensors and `out` + "_dq" beside it, and return `out`.

    scheme: NVFP4A16 or NVFP4 (W4A4; every input_global_scale is 400)
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        apply_quantization_config,
        preset_name_to_scheme,
    )

    model = load(src)
    split_experts(model)
    ignore = [
        "lm_head",
        "re:.*router.*",
        "re:.*vision_tower.*",
        "re:.*audio_tower.*",
        "re:.*embed_",
    ]
    groups = {"group_0": preset_name_to_scheme(scheme, ["Linear"])}
    apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=ignore))
    for stack in stacks(model):
        set_scales(stack)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)
    return finish(src, out, compressed_tensors_dequantize)


def llmcompressor_moe(out: Path) -> Path:
    """Copy llm-compressor's own small MoE (W4A4) to `out`, write `out` + "_dq", return `out`."""
    out = Path(out)
    copy_companions(FIXTURE, out)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FIXTURE / name, out / name)
    tokenizer().save_pretrained(out)
    write_reference(out, compressed_tensors_dequantize)
    return out


def load(src: Path) -> transformers.PreTrainedModel:
    (architecture,) = json.loads((src / "config.json").read_text())["architectures"]
    return getattr(transformers, architecture).from_pretrained(src, dtype=torch.bfloat16)


def calibrate(model: transformers.PreTrainedModel) -> None:
    """Calibrate on characters (ids from 24 up), enough for each expert to see some tokens."""
    draw = torch.Generator().manual_seed(0)
    model(input_ids=torch.randint(24, 512, (8, 64), generator=draw))


def finish(src: Path, out: Path, dequantize: Any) -> Path:
    """Add the tokenizer, which the tools do not write, and the reference."""
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    copy_companions(src, out)
    for name, content in kept.items():
        (out / name).write_bytes(content)
    write_reference(out, dequantize)
    return out


def modelopt_dequantize(leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    rows, half = leaves["weight"].shape
    return NVFP4QTensor((rows, 2 * half), torch.float32, leaves["weight"]).dequantize(
        torch.float32,
        scale=leaves["weight_scale"],
        double_scale=leaves["weight_scale_2"],
        block_sizes={-1: 16},
    )


def compressed_tensors_dequantize(leaves: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Decompress in fp32; NVFP4PackedCompressor.decompress by itself computes in bf16."""
    from compressed_tensors.compressors.nvfp4 import unpack_fp4_from_uint8
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    rows, half = leaves["weight_packed"].shape
    return dequantize(
        unpack_fp4_from_uint8(leaves["weight_packed"], rows, 2 * half, dtype=torch.float32),
        scale=leaves["weight_scale"].float(),
        global_scale=leaves["weight_global_scale"],
        dtype=torch.float32,
    )


def split_experts(model: torch.nn.Module) -> None:
    """Replace fused experts modules by linears named as in a checkpoint, without a forward."""
    fused = [(n, m) for n, m in model.named_modules() if n.endswith(".experts")]
    for name, experts in fused:
        holder = torch.nn.Module()
        state = {f"experts.{leaf}": tensor for leaf, tensor in experts.state_dict().items()}
        for path, weight in unfuse_experts(state).items():
            _, expert, leaf, _ = path.split(".")
            if expert not in holder._modules:
                holder.add_module(expert, torch.nn.Module())
            linear = torch.nn.Linear(*reversed(weight.shape), bias=False, dtype=weight.dtype)
            linear.weight.data.copy_(weight)
            holder.get_submodule(expert).add_module(leaf, linear)
        model.set_submodule(name, holder)


def stacks(model: torch.nn.Module) -> Iterator[list[torch.nn.Linear]]:
    """Yield the quantized linears in the groups that the server stacks."""
    stacks: dict[str, list[torch.nn.Linear]] = {}
    for name, module in model.named_modules():
        if hasattr(module, "weight_global_scale"):
            parent, _, leaf = name.rpartition(".")
            stacks.setdefault(f"{parent}.{STACK.get(leaf, leaf)}", []).append(module)
    yield from stacks.values()


def set_scales(stack: list[torch.nn.Linear]) -> None:
    """Compute the scales of llm-compressor's minmax observer with its functions."""
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    weights = [linear.weight.detach().float() for linear in stack]
    low, high = (torch.stack([f(w) for w in weights]) for f in (torch.min, torch.max))
    divisor = generate_gparam(low.min(), high.max())
    for linear, w in zip(stack, weights, strict=True):
        blocks = w.unflatten(-1, (-1, 16))
        arguments = linear.quantization_scheme.weights
        scale, _ = calculate_qparams(blocks.amin(-1), blocks.amax(-1), arguments, divisor)
        linear.weight_scale.data.copy_(scale)
        linear.weight_global_scale.data.copy_(divisor)
        if hasattr(linear, "input_global_scale"):
            linear.input_global_scale.data.fill_(400.0)
