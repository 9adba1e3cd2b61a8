# SPDX-License-Identifier: Apache-2.0
"""Load FP8 layers of every tool and strategy, and multiply them as they are stored.

A layer keeps the checkpoint's codes, E4M3 [.., N, K]. Scales of a tensor, of rows or of 128 x 128
blocks are spread over rows while they load, fp32 [.., N, G]. So stacked parts keep their own scales
exactly, and a tensor-parallel shard may end within a block of rows. Rows with equal scales share
them again once all are loaded. Activations are not quantized; their scales are not read.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.checkpoint.stored import Layer
from sglang_gemma4_ext.kernels.fp8_checks import K_MULTIPLE
from sglang_gemma4_ext.kernels.fp8_format import BLOCK, scales_a_row, shared, spread
from sglang_gemma4_ext.kernels.fp8_ref import fp8_experts_ref, fp8_linear_ref
from sglang_gemma4_ext.patches.weights import _dispatch as checkpoint
from sglang_gemma4_ext.patches.weights import _layers

logger = logging.getLogger(__name__)

# GPUs with FP8 tensor cores, for which SGLang has its own path.
FP8_CAPABILITY = (8, 9)


def takes(layer: Any, marlin: bool) -> bool:
    """Tell whether the FP8 weights of a LinearBase or FusedMoE are ours, and not SGLang's.

    marlin: whether SGLang serves such linears by Marlin on a GPU without FP8 tensor cores
    """
    here = _layers.here()
    if not checkpoint.leaves_fp8(here):
        return True
    if here.gpu.capability >= FP8_CAPABILITY:
        return False
    kind, n, k, *_ = _layers.shape_of(layer)
    if kind == "experts":
        lacking = "SGLang's FP8 experts need compute capability 8.9"
    elif not marlin:
        lacking = "SGLang's method needs compute capability 8.9"
    elif _fits_marlin(layer, n, k):
        return False
    else:
        lacking = "Marlin takes multiples of 64 x 128"
    _say_once(kind, n, k, lacking)
    return True


def _fits_marlin(layer: Any, n: int, k: int) -> bool:
    from sglang.srt.layers.quantization.marlin_utils import check_marlin_supports_shape

    return check_marlin_supports_shape(n, k, layer.input_size, layer.input_size)[0]


@functools.cache
def _say_once(kind: str, n: int, k: int, why: str) -> None:
    logger.info("FP8: fused weight-only kernels for %s of %d x %d: %s", kind, n, k, why)


def method(layer: Any, where: str, stored: Layer) -> Any:
    """Return the quantization method of an FP8 LinearBase or FusedMoE."""
    from sglang.srt.layers.moe.fused_moe_triton import FusedMoE

    if isinstance(layer, FusedMoE):
        _layers.require_runnable_experts(layer)
        return _experts()(where, stored)
    return _linear()(where, stored)


@functools.cache
def _linear() -> type:
    from sglang.srt.layers.parameter import ChannelQuantScaleParameter, ModelWeightParameter
    from sglang.srt.layers.quantization.base_config import LinearMethodBase

    class Fp8LinearMethod(LinearMethodBase):
        """Keep the class name by which SGLang's linears choose a loader of whole parameters."""

        def __init__(self, where: str, stored: Layer) -> None:
            self.where, self.stored = where, stored
            self.blocks = stored.strategy == "block"

        def create_weights(
            self,
            layer,
            input_size_per_partition,
            output_partition_sizes,
            input_size,
            output_size,
            params_dtype,
            *,
            weight_loader,
            **_,
        ) -> None:
            share, rows = input_size_per_partition, sum(output_partition_sizes)
            require_servable(self.where, input_size, share, self.blocks)
            names = ("weight", self.stored.scale)
            loader = _recorded(weight_loader, layer, self.where, {names: input_size}, self.blocks)

            def whole_rows(shard: Any, expert: Any) -> int:
                return rows_of(layer, shard)

            loader = _spreading(loader, layer, {names: input_size}, self.blocks, whole_rows)
            codes = torch.empty(rows, share, dtype=torch.float8_e4m3fn)
            scales = torch.full((rows, scales_a_row(share, self.blocks)), torch.nan)
            axes = {"input_dim": 1} if self.blocks else {}
            scale = ModelWeightParameter if self.blocks else ChannelQuantScaleParameter
            layer.register_parameter(
                "weight",
                ModelWeightParameter(data=codes, input_dim=1, output_dim=0, weight_loader=loader),
            )
            layer.register_parameter(
                self.stored.scale,
                scale(data=scales, output_dim=0, weight_loader=loader, **axes),
            )
            layer.logical_widths = list(output_partition_sizes)

        def process_weights_after_loading(self, layer) -> None:
            finish(layer, ("weight", self.stored.scale), self.where, layer.logical_widths)

        def apply(self, layer, x, bias=None) -> torch.Tensor:
            tensors = _tensors(layer, "weight", self.stored.scale)
            if layer.gemma4_fused:
                return torch.ops.sglang_gemma4_ext.fp8_linear(x, *tensors, bias, None)
            return fp8_linear_ref(x, *tensors, bias)

    return Fp8LinearMethod


@functools.cache
def _experts() -> type:
    from sglang.srt.layers.quantization.base_config import FusedMoEMethodBase

    class Gemma4Fp8Experts(FusedMoEMethodBase):
        runner = None  # a direct kernel, in SGLang's terms: standard top-k, local ids

        def __init__(self, where: str, stored: Layer) -> None:
            self.where, self.stored = where, stored

        def create_weights(self, layer, num_experts, hidden_size, **kwargs) -> None:
            _create_experts(layer, self.where, self.stored, num_experts, hidden_size, kwargs)

        def create_moe_runner(self, layer, moe_runner_config) -> None:
            self.moe_runner_config = moe_runner_config

        def process_weights_after_loading(self, layer) -> None:
            for stack in ("w13", "w2"):
                names = _stacked(stack, self.stored)
                finish(layer, names, self.where, [getattr(layer, names[0]).shape[1]])

        def apply(self, layer, dispatch_output) -> Any:
            activation = self.moe_runner_config.activation
            return apply_experts(layer, self.stored, activation, dispatch_output)

    return Gemma4Fp8Experts


def _stacked(stack: str, stored: Layer) -> tuple[str, str]:
    return f"{stack}_weight", f"{stack}_{stored.scale}"


def _create_experts(
    layer: Any, where: str, stored: Layer, experts: int, hidden: int, given: dict[str, Any]
) -> None:
    """Register the parameters of stacked experts, codes as in the checkpoint."""
    from sglang.srt.utils import set_weight_attrs

    share, inner = given.pop("intermediate_size_per_partition"), given["moe_intermediate_size"]
    given.pop("params_dtype")
    blocks = stored.strategy == "block"
    require_servable(where, hidden, hidden, blocks)
    require_servable(where, inner, share, blocks)
    whole = {_stacked("w13", stored): hidden, _stacked("w2", stored): inner}

    def rows(shard: Any, expert: Any) -> int:
        return hidden if shard == "w2" else inner

    loader = _recorded(given["weight_loader"], layer, where, whole, blocks)
    loader = _spreading(loader, layer, whole, blocks, rows)
    attributes = {
        **given,
        "weight_loader": loader,
        "quant_method": "group" if blocks else "channel",
    }
    for names, height, k in zip(whole, (2 * share, hidden), (hidden, share), strict=True):
        tensors = (
            torch.empty(experts, height, k, dtype=torch.float8_e4m3fn),
            torch.full((experts, height, scales_a_row(k, blocks)), torch.nan),
        )
        for name, tensor in zip(names, tensors, strict=True):
            parameter = torch.nn.Parameter(tensor, requires_grad=False)
            layer.register_parameter(name, parameter)
            set_weight_attrs(parameter, attributes)


def require_servable(where: str, full_k: int, k: int, blocks: bool) -> None:
    """Raise ValueError on in-features that neither the kernels nor the reference take.

    full_k, k: in-features, whole and of one rank
    """
    if k % K_MULTIPLE:
        raise ValueError(
            f"{where}: a rank's share has {k} in-features, no multiple of {K_MULTIPLE}, as FP8 "
            "needs; start with a smaller --tp-size"
        )
    if blocks and k != full_k and k % BLOCK:
        raise ValueError(
            f"{where}: a rank's share has {k} in-features, no multiple of the {BLOCK} that share "
            "one scale; start with a smaller --tp-size"
        )


def rows_of(layer: Any, shard: Any) -> int:
    """Return the out-features of one part of SGLang's linear, before tensor parallelism."""
    if shard is None:
        return layer.output_size
    if isinstance(shard, str):
        heads = layer.total_num_heads if shard == "q" else layer.total_num_kv_heads
        return heads * (layer.v_head_size if shard == "v" else layer.head_size)
    return layer.output_sizes[shard]


Names = tuple[str, str]


def _recorded(
    loader: Callable[..., None], layer: Any, where: str, whole: dict[Names, int], blocks: bool
) -> Callable[..., None]:
    """Refuse tensors of another layout, and record the rows that came. whole: in-features."""
    expected: dict[str, _layers.Stored] = {}
    for (codes, scale), k in whole.items():
        expected[codes] = (torch.float8_e4m3fn,), k
        expected[scale] = (torch.float32,), scales_a_row(k, blocks)
    return _layers.recorded(loader, layer, where, expected)


def _spreading(
    loader: Callable[..., None],
    layer: Any,
    whole: dict[Names, int],
    blocks: bool,
    rows: Callable[[Any, Any], int],
) -> Callable[..., None]:
    """Wrap a weight loader: spread scales over the rows that they hold for."""
    scales = {scale: k for (_, scale), k in whole.items()}

    def load(param: Any, loaded: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        name = next((n for n in scales if param is getattr(layer, n)), None)
        if name is not None:
            shard, expert = _layers.shard_of(args, **kwargs)
            loaded = spread(loaded, rows(shard, expert), scales[name], blocks)
        loader(param, loaded, *args, **kwargs)

    return load


def finish(layer: Any, names: Names, where: str, widths: list[int]) -> None:
    """Check that all of a weight was loaded. widths: rows of each stacked part.

    Raises ValueError naming the layer and what it lacks.
    """
    codes, scale = (getattr(layer, name).data for name in names)
    seen = layer.rows_seen
    if _layers.lacks_keys(where, {shard for shard, _ in seen[names[0]]}):
        codes[widths[0] :] = 0
        scale[widths[0] :] = 1
    if not bool(scale.isfinite().all()):
        raise ValueError(_layers.lacking(where, f"{names[1]} of finite numbers"))
    if seen[names[0]] != seen[names[1]]:
        raise ValueError(_layers.lacking(where, f"{names[0]} with as many rows as {names[1]}"))
    getattr(layer, names[1]).data = shared(scale)
    layer.gemma4_fused = _layers.fused()


def apply_experts(layer: Any, stored: Layer, activation: str, dispatched: Any) -> Any:
    """Run the experts on SGLang's StandardDispatchOutput; return its StandardCombineInput."""
    from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

    experts = torch.ops.sglang_gemma4_ext.fp8_experts if layer.gemma4_fused else fp8_experts_ref
    routing = dispatched.topk_output
    out = experts(
        dispatched.hidden_states,
        routing.topk_ids,
        routing.topk_weights,
        *_tensors(layer, *_stacked("w13", stored)),
        *_tensors(layer, *_stacked("w2", stored)),
        _layers.ACTIVATIONS.get(activation, activation),
    )
    return StandardCombineInput(hidden_states=out)


def _tensors(layer: Any, codes: str, scale: str) -> tuple[torch.Tensor, torch.Tensor]:
    return getattr(layer, codes).data.view(torch.uint8), getattr(layer, scale).data
