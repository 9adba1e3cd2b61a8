# SPDX-License-Identifier: Apache-2.0
"""Check the tensors of an INT4 layer while they load, and multiply them as they are stored.

A layer keeps compressed-tensors' own tensors. Codes are int32 [.., N, K/8], which the kernels read
as bytes. Scales are [.., N, G] in the model's dtype. Packed zero points are int32 [.., N/8, G].
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sglang_gemma4_ext.kernels.int4_format import MIN_GROUP, ROWS_A_WORD, as_bytes
from sglang_gemma4_ext.kernels.int4_ref import int4_experts_ref, int4_linear_ref
from sglang_gemma4_ext.patches.weights import _dispatch as checkpoint
from sglang_gemma4_ext.patches.weights import _humming as humming
from sglang_gemma4_ext.patches.weights import _layers

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs

logger = logging.getLogger(__name__)

_CODES_A_WORD = 8
_SCALES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Weight:
    """Name the parameters of one packed weight in a layer."""

    packed: str
    scale: str
    zero: str


def _weight(stack: str) -> Weight:
    return Weight(*(f"{stack}weight_{part}" for part in ("packed", "scale", "zero_point")))


def _words(stack: str) -> Weight:
    return Weight(*(f"{stack}{part}" for part in ("qweight", "scales", "qzeros")))


# Of a linear, of stacked gate and up experts, of down experts.
LINEAR, W13, W2 = _weight(""), _weight("w13_"), _weight("w2_")
# The same of GPTQ and AWQ, in their names.
WORDS, WORDS_W13, WORDS_W2 = _words(""), _words("w13_"), _words("w2_")


def is_int4(args: QuantizationArgs) -> bool:
    return args.num_bits == 4 and args.type == "int" and not args.dynamic


def takes(layer: Any, group: int | None) -> bool:
    """Tell whether the weights of a LinearBase or FusedMoE are ours, and not SGLang's Marlin's."""
    here = _layers.here()
    if not checkpoint.shared_with_marlin(here):
        return True
    kind, n, k, *_ = shape = _layers.shape_of(layer)
    if kind == "experts":
        return checkpoint.refused(*shape)
    lacking = _linears_lack(n, k, layer, group)
    if lacking:
        _say_once(kind, n, k, lacking)
    return lacking is not None


def _linears_lack(n: int, k: int, layer: Any, group: int | None) -> str | None:
    from sglang.srt.layers.quantization.marlin_utils import check_marlin_supports_shape

    whole = layer.input_size
    fits, _ = check_marlin_supports_shape(n, k, whole, group or whole)
    return None if fits else "Marlin takes multiples of 64 x 128"


@functools.cache
def _say_once(kind: str, n: int, k: int, why: str) -> None:
    logger.info("INT4: fused kernels for %s of %d x %d: %s", kind, n, k, why)


def require_servable(where: str, args: QuantizationArgs, full_k: int, k: int) -> None:
    """Raise ValueError on a kind of INT4 that neither the kernels nor the reference read.

    full_k, k: in-features, whole and of one rank
    """
    if args.actorder in ("group", "dynamic"):
        raise ValueError(
            f"{where}: activation reordering (actorder {args.actorder}) is not served; quantize "
            "again with actorder static or none"
        )
    group = args.group_size or full_k
    if args.strategy == "group" and (group < MIN_GROUP or group & (group - 1)):
        raise ValueError(
            f"{where}: one scale for {group} weights; INT4 is served with groups of 32, 64, 128 or "
            "another power of two, or with one scale a row: quantize again"
        )
    if args.strategy == "group" and k % group:
        raise ValueError(
            f"{where}: a rank's share has {k} in-features, no multiple of the {group} that share "
            "one scale; start with a smaller --tp-size"
        )


def expected(weights: Mapping[Weight, tuple[int, int]], zeros: bool) -> dict[str, _layers.Stored]:
    """Describe the tensors of a checkpoint. weights: to in-features and scales in a row."""
    stored: dict[str, _layers.Stored] = {}
    for weight, (k, groups) in weights.items():
        stored[weight.packed] = (torch.int32,), k // _CODES_A_WORD
        stored[weight.scale] = _SCALES, groups
        if zeros:
            stored[weight.zero] = (torch.int32,), groups
    return stored


def mark_unloaded(layer: Any, weight: Weight) -> None:
    """Fill every scale with NaN, so that one that is never loaded is found."""
    getattr(layer, weight.scale).data.fill_(torch.nan)


def finish(layer: Any, weight: Weight, where: str, widths: list[int]) -> None:
    """Check that all of a weight was loaded. widths: rows of each stacked part.

    Raises ValueError naming the layer and what it lacks.
    """
    packed, scale = getattr(layer, weight.packed).data, getattr(layer, weight.scale).data
    seen = layer.rows_seen
    if _layers.lacks_keys(where, {shard for shard, _ in seen[weight.packed]}):
        packed[widths[0] :] = 0
        scale[widths[0] :] = 1
    if any(not bool(part.isfinite().all()) for part in _layers.parts(scale)):
        raise ValueError(_layers.lacking(where, f"{weight.scale} of finite numbers"))
    if seen[weight.packed] != seen[weight.scale]:
        raise ValueError(
            _layers.lacking(where, f"{weight.packed} with as many rows as {weight.scale}")
        )
    zeros = {shard: ROWS_A_WORD * rows for shard, rows in seen.get(weight.zero, {}).items()}
    if weight.zero in seen and zeros != seen[weight.scale]:
        raise ValueError(_layers.lacking(where, weight.zero))
    layer.gemma4_fused = _layers.fused()


def apply_linear(
    layer: Any, x: torch.Tensor, bias: torch.Tensor | None, weight: Weight = LINEAR
) -> torch.Tensor:
    if layer.gemma4_humming is not None:
        return humming.linear(layer.gemma4_humming, x, bias)
    tensors = _tensors(layer, weight)
    if layer.gemma4_fused:
        return torch.ops.sglang_gemma4_ext.int4_linear(x, *tensors, bias, None)
    return int4_linear_ref(x, *tensors, bias)


def apply_experts(
    layer: Any, activation: str, dispatched: Any, w13: Weight = W13, w2: Weight = W2
) -> Any:
    """Run the experts on SGLang's StandardDispatchOutput; return its StandardCombineInput."""
    from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

    if layer.gemma4_humming is not None:
        return humming.experts(layer.gemma4_humming, dispatched)
    experts = torch.ops.sglang_gemma4_ext.int4_experts if layer.gemma4_fused else int4_experts_ref
    routing = dispatched.topk_output
    out = experts(
        dispatched.hidden_states,
        routing.topk_ids,
        routing.topk_weights,
        *_tensors(layer, w13),
        *_tensors(layer, w2),
        _layers.ACTIVATIONS.get(activation, activation),
    )
    return StandardCombineInput(hidden_states=out)


def _tensors(layer: Any, weight: Weight) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    packed = as_bytes(getattr(layer, weight.packed).data)
    return packed, getattr(layer, weight.scale).data, getattr(layer, weight.zero, None)
