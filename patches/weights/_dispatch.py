# SPDX-License-Identifier: Apache-2.0
"""Decide whether this process needs the exact NVFP4 path, and for which layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.context import Context

if TYPE_CHECKING:
    from sglang_gemma4_ext.kernels.nvfp4_dispatch import Layer, Table

# SGLang's Marlin applies these between gate_up and down of gated experts. Any other, such as
# Gemma 4's gelu, stops the server at its first token.
MARLIN_ACTIVATIONS = ("silu", "situ")


def stands_down(ctx: Context, quant_format: str, per_layer: bool = False) -> str | None:
    """Return why this process needs no exact path for `quant_format`, or None.

    per_layer: whether checkpoints with an algorithm for each layer count, too
    """
    if not ctx.settings.cpu and not ctx.gpu.is_target:
        return f"it is for NVIDIA GPUs of compute capability 8.0 to 9.x; here: {ctx.gpu}"
    # Marlin cannot serve the experts of a Gemma 4: see `MARLIN_ACTIVATIONS`.
    needed = ctx.settings.cpu or (ctx.model is not None and ctx.model.is_moe)
    if ctx.settings.weights == "marlin" and (ctx.settings.cpu or not needed):
        return "--gemma4-weights marlin leaves NVFP4 to SGLang's kernels"
    if ctx.settings.weights == "auto" and not needed and not table(ctx).faster:
        return (
            "SGLang's Marlin kernels serve NVFP4 on this GPU: the fused ones were not measured to "
            "be faster on it (--gemma4-weights fused still selects them)"
        )
    if ctx.model is None:
        return None
    quantization = describe(ctx.model)
    if quantization.nvfp4_tool != quant_format:
        return f"the checkpoint is not an NVFP4 one of {quant_format}"
    if quantization.per_layer and not per_layer:
        return f"modelopt_mixed serves ModelOpt's {quantization.label}"
    return None


def uses_fused(ctx: Context) -> bool:
    """Tell whether the fused kernels multiply the layers that are ours in this process."""
    return ctx.settings.weights in ("fused", "humming") or shared_with_marlin(ctx)


def takes(ctx: Context, layer: Layer, n: int, k: int, activation: str | None = None) -> bool:
    """Tell whether a shard of this shape is ours; SGLang's Marlin serves the others.

    activation: of experts, as SGLang names it
    """
    if not shared_with_marlin(ctx) or refused(layer, n, k, activation):
        return True
    return ctx.settings.weights == "auto" and (layer, n, k) in table(ctx).faster


def shared_with_marlin(ctx: Context) -> bool:
    """Tell whether weights that are not ours go to SGLang's Marlin."""
    return _on_a_gpu(ctx) and ctx.settings.weights in ("auto", "marlin")


def refused(layer: Layer, n: int, k: int, activation: str | None = None) -> bool:
    """Tell whether SGLang's Marlin refuses a shard for its activation."""
    return layer == "experts" and activation not in MARLIN_ACTIVATIONS


def serves_humming(ctx: Context) -> bool:
    """Tell whether Humming may multiply any weights in this process."""
    return _on_a_gpu(ctx) and ctx.settings.weights in ("auto", "humming")


def prefers_humming(
    ctx: Context, layer: Layer, n: int, k: int, activation: str | None = None
) -> bool:
    """Tell whether Humming multiplies a 4-bit shard of ours, if its tensors suit it."""
    if not serves_humming(ctx) or ctx.settings.weights == "humming":
        return serves_humming(ctx)
    return refused(layer, n, k, activation) and (layer, n, k) not in table(ctx).faster


def leaves_fp8(ctx: Context) -> bool:
    """Tell whether FP8 weights that SGLang can serve are SGLang's."""
    return _on_a_gpu(ctx) and ctx.settings.weights in ("auto", "marlin", "humming")


def _on_a_gpu(ctx: Context) -> bool:
    return ctx.gpu.is_target and not ctx.settings.cpu


def table(ctx: Context) -> Table:
    """Return the dispatch table of this process's GPU."""
    from sglang_gemma4_ext.kernels.nvfp4_dispatch import table_for

    return table_for(ctx.gpu.name, ctx.gpu.capability)


def absent_projections(text: Any, layer: int) -> frozenset[str]:
    """List projections without weights: K = V layers lack v, KV-shared layers k and v.

    text: the text part of a Gemma 4 configuration
    """
    shared = getattr(text, "num_kv_shared_layers", 0) or 0
    if shared and layer >= text.num_hidden_layers - shared:
        return frozenset({"k", "v"})
    if getattr(text, "attention_k_eq_v", False) and text.layer_types[layer] == "full_attention":
        return frozenset({"v"})
    return frozenset()
