# SPDX-License-Identifier: Apache-2.0
"""Serve compressed-tensors FP8 linears without a GPU: weight-only, dequantized some rows at a time.

SGLang asks the GPU before it chooses a scheme. Here it is answered as on compute capability 8.0,
where FP8 weights with quantized activations are served weight-only, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.checkpoint.schemes import COMPRESSED_TENSORS
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels.dequantized_ref import dequantized_linear
from sglang_gemma4_ext.registry import Hook, Patch, Source

QUANTIZATION = "sglang.srt.layers.quantization.compressed_tensors"
CONFIG = f"{QUANTIZATION}.compressed_tensors.CompressedTensorsConfig"
SCHEME = f"{QUANTIZATION}.schemes.CompressedTensorsW8A16Fp8"
CAPABILITY = 80


def _supported(
    original: Callable[..., bool], config: Any, min_capability: int, error: bool = True
) -> bool:
    """AROUND _check_scheme_supported, which asks torch.cuda."""
    return min_capability <= CAPABILITY


def _finish(scheme: Any, layer: Any) -> None:
    """REPLACE process_weights_after_loading: spread scales per tensor over the rows of each."""
    scale = layer.weight_scale.data
    if scale.dim() == 1:
        repeats = torch.tensor(layer.logical_widths)
        scale = torch.repeat_interleave(scale, repeats).unsqueeze(-1)
    layer.register_buffer("row_scale", scale.contiguous(), persistent=False)


def _apply(
    scheme: Any, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """REPLACE apply_weights."""
    weight, scale = layer.weight.data, layer.row_scale

    def weights(part: slice) -> torch.Tensor:
        return (weight[part].float() * scale[part]).to(x.dtype)

    return dequantized_linear(x, len(weight), weights, bias)


def _stands_down(ctx: Context) -> str | None:
    if not ctx.settings.cpu:
        return "it is for the CPU reference"
    if ctx.model is None:
        return None
    quantization = describe(ctx.model)
    if quantization.tool == COMPRESSED_TENSORS and quantization.declares("fp8"):
        return None
    return "the checkpoint holds no FP8 layers of compressed-tensors"


def _retired() -> bool:
    from sglang.srt.layers.quantization.compressed_tensors import compressed_tensors

    check = inspect.unwrap(compressed_tensors.CompressedTensorsConfig._check_scheme_supported)
    return "torch.cuda" not in inspect.getsource(check)


PATCH = Patch(
    name="cpu_fp8_linears",
    theme="cpu",
    summary="FP8 linears of compressed-tensors serve without a GPU, dequantized",
    why="SGLang asks torch.cuda before it chooses a scheme, and FP8 is multiplied by GPU kernels",
    upstream="unreported",
    retire_when="the choice of a scheme asks the platform and not torch.cuda",
    retired=_retired,
    hooks=(
        Hook(f"{CONFIG}._check_scheme_supported", "03a22ba7bdce", "around", _supported),
        Hook(f"{SCHEME}.process_weights_after_loading", "9a4e2a49826b", "replace", _finish),
        Hook(f"{SCHEME}.apply_weights", "6a61542c0abe", "replace", _apply),
    ),
    relies_on=(
        Source(f"{CONFIG}._get_scheme_from_parts", "b2fff28b0fb2"),
        Source(f"{SCHEME}.create_weights", "92c6e65d8d95"),
    ),
    stands_down=_stands_down,
)
