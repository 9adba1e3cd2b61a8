# SPDX-License-Identifier: Apache-2.0
"""Make the providers of the NVFP4 benchmark: each turns weights into a call on activations.

Marlin is SGLang's: the functions that its quantization methods call, on weights that are repacked
as in loading. SGLang is imported only on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
import triton
from torch.nn.functional import gelu, linear, silu

from bench.kernels import providers_humming
from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK
from sglang_gemma4_ext.kernels.nvfp4_dequant import dequant
from sglang_gemma4_ext.kernels.nvfp4_linear import nvfp4_linear

# Providers whose kernels are CUDA C++.
GPU_ONLY = ("marlin", "humming")

Weight = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Call = Callable[[torch.Tensor], torch.Tensor]
# Of ids int32 [T, k] and weights fp32 [T, k].
Routed = Callable[[torch.Tensor, torch.Tensor], Call]
# Of experts. Gemma's is gelu, which SGLang's Marlin lacks; the matmuls are the same.
ACTIVATION = "silu"


def dtype() -> torch.dtype:
    """Return the dtype of activations: BF16, or FP16 in the interpreter, which has no BF16."""
    return torch.float16 if triton.knobs.runtime.interpret else torch.bfloat16


def draw(*shape: int, device: str, seed: int = 0) -> Weight:
    """Draw packed uint8 [.., N, K/2], positive E4M3 block scales, and one tensor scale."""
    *rows, k = shape
    generator = torch.Generator(device).manual_seed(seed)
    size = {"generator": generator, "device": device}
    packed = torch.randint(0, 256, (*rows, k // 2), dtype=torch.uint8, **size)
    block = (torch.rand(*rows, k // BLOCK, **size) * 4 + 0.5).to(torch.float8_e4m3fn)
    return packed, block, torch.full(tuple(rows), 0.01, device=device)


def fused(weight: Weight) -> Call:
    return lambda x: nvfp4_linear(x, *weight)


def dequantize_then_matmul(weight: Weight) -> Call:
    packed, block, row = weight
    return lambda x: linear(x, dequant(packed, block, row[:, None], x.dtype))


def cublas_bf16(weight: Weight) -> Call:
    packed, block, row = weight
    whole = dequant(packed, block, row[:, None], dtype())
    return lambda x: linear(x, whole)


def marlin(weight: Weight) -> Call:
    from sglang.srt.layers.quantization import marlin_utils_fp4 as fp4

    packed, block, row = weight
    rows, k = packed.shape[0], 2 * packed.shape[1]
    layer = torch.nn.Module()
    layer.output_size_per_partition, layer.input_size_per_partition = rows, k
    layer.params_dtype = torch.bfloat16
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    layer.weight_scale = torch.nn.Parameter(block, requires_grad=False)
    layer.weight_global_scale = torch.nn.Parameter(row[0], requires_grad=False)
    fp4.prepare_nvfp4_layer_for_marlin(layer)
    return lambda x: fp4.apply_fp4_marlin_linear(
        x,
        layer.weight,
        layer.weight_scale,
        layer.weight_global_scale,
        layer.workspace,
        rows,
        k,
    )


def attempted(make: Callable, *weights: Weight) -> Callable:
    """Return make(*weights), or a call that raises the exception of make."""
    try:
        return make(*weights)
    except Exception as problem:
        failure = problem

    def fail(*_: torch.Tensor) -> torch.Tensor:
        raise failure

    return fail


def with_activation(make: Callable[[Weight], Call]) -> Callable[[Weight], Call]:
    """Follow a provider's gate and up by SGLang's launch of gelu(gate) * up."""

    def made(weight: Weight) -> Call:
        call = make(weight)
        if not weight[0].is_cuda:
            return lambda x: gelu_and_mul(call(x))
        from sglang.srt.layers.activation import gelu_tanh_and_mul

        return lambda x: gelu_tanh_and_mul(call(x))

    return made


def gelu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """Compute gelu(gate) * up in PyTorch; x [T, 2 N] is gate and up."""
    gate, up = x.chunk(2, dim=-1)
    return gelu(gate, approximate="tanh") * up


LINEAR = {
    "fused": fused,
    "marlin": marlin,
    "humming": providers_humming.linear,
    "dequantize_then_matmul": dequantize_then_matmul,
    "cublas_bf16": cublas_bf16,
}
GATE_UP = {
    "fused": lambda weight: lambda x: nvfp4_linear(x, *weight, activation="gelu_tanh"),
    **{name: with_activation(make) for name, make in LINEAR.items() if name != "fused"},
}


def fused_experts(w13: Weight, w2: Weight) -> Routed:

    from sglang_gemma4_ext.patches.weights import _ops

    _ops.register()
    run = torch.ops.sglang_gemma4_ext.nvfp4_experts
    return lambda ids, weights: lambda x: run(x, ids, weights, *w13, *w2, ACTIVATION)


def marlin_experts(w13: Weight, w2: Weight) -> Routed:
    from sglang.srt.layers.moe.fused_moe_triton.fused_marlin_moe import fused_marlin_moe
    from sglang.srt.layers.quantization import marlin_utils_fp4 as fp4

    layer = torch.nn.Module()
    layer.moe_runner_config = SimpleNamespace(is_gated=True)
    layer.intermediate_size_per_partition = w13[0].shape[1] // 2
    layer.params_dtype = torch.bfloat16
    for stack, (packed, block, row) in {"w13": w13, "w2": w2}.items():
        for name, tensor in {
            "weight": packed,
            "weight_scale": block,
            "weight_scale_2": row[:, 0].contiguous(),
        }.items():
            parameter = torch.nn.Parameter(tensor, requires_grad=False)
            setattr(layer, f"{stack}_{name}", parameter)
    fp4.prepare_moe_nvfp4_layer_for_marlin(layer, group_size=BLOCK)

    def routed(ids: torch.Tensor, weights: torch.Tensor) -> Call:
        logits = torch.zeros(len(ids), len(w13[0]), device=ids.device)
        return lambda x: fused_marlin_moe(
            hidden_states=x,
            w1=layer.w13_weight,
            w2=layer.w2_weight,
            w1_scale=layer.w13_weight_scale,
            w2_scale=layer.w2_weight_scale,
            gating_output=logits,
            topk_weights=weights,
            topk_ids=ids,
            w1_global_scale=layer.w13_weight_scale_2,
            w2_global_scale=layer.w2_weight_scale_2,
            workspace=layer.workspace,
            num_bits=4,
            activation=ACTIVATION,
        )

    return routed


def dequantize_then_matmul_experts(w13: Weight, w2: Weight) -> Routed:
    def unpacked(stack: Weight, expert: int) -> torch.Tensor:
        packed, block, row = (tensor[expert] for tensor in stack)
        return dequant(packed, block, row[:, None], dtype())

    return _one_by_one(lambda expert: (unpacked(w13, expert), unpacked(w2, expert)))


def cublas_bf16_experts(w13: Weight, w2: Weight) -> Routed:
    up, down = (dequant(p, b, row[..., None], dtype()) for p, b, row in (w13, w2))
    return _one_by_one(lambda expert: (up[expert], down[expert]))


def _one_by_one(weights_of: Callable[[int], tuple[torch.Tensor, ...]]) -> Routed:
    """Multiply expert by expert; the routing is read before, so no call waits for the device."""

    def routed(ids: torch.Tensor, weights: torch.Tensor) -> Call:
        parts = []
        for expert in ids.unique().tolist():
            token, slot = torch.where(ids == expert)
            parts.append((expert, token, weights[token, slot].float()[:, None]))

        def call(x: torch.Tensor) -> torch.Tensor:
            out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
            for expert, token, weight in parts:
                up, down = weights_of(expert)
                gate, y = linear(x[token], up).chunk(2, dim=-1)
                out.index_add_(0, token, linear(silu(gate) * y, down).float() * weight)
            return out.to(x.dtype)

        return call

    return routed


EXPERTS = {
    "fused": fused_experts,
    "marlin": marlin_experts,
    "humming": lambda w13, w2: providers_humming.experts(w13, w2, ACTIVATION),
    "dequantize_then_matmul": dequantize_then_matmul_experts,
    "cublas_bf16": cublas_bf16_experts,
}
