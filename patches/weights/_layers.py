# SPDX-License-Identifier: Apache-2.0
"""Check the tensors of an NVFP4 layer while they load, and multiply them as they are stored.

A layer keeps the checkpoint's own tensors: packed [.., N, K/2] and block scales [.., N, K/16]. It
also gets a scale per row, fp32 [.., N]. SGLang stacks q/k/v and gate/up into one weight, and each
row keeps the tensor scale of its own part.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK
from sglang_gemma4_ext.kernels.nvfp4_ref import nvfp4_experts_ref, nvfp4_linear_ref
from sglang_gemma4_ext.patches.model._counters import counters_are_safe
from sglang_gemma4_ext.patches.weights import _dispatch as checkpoint
from sglang_gemma4_ext.patches.weights import _humming as humming
from sglang_gemma4_ext.settings import Settings

if TYPE_CHECKING:
    from sglang_gemma4_ext.kernels.nvfp4_dispatch import Layer

logger = logging.getLogger(__name__)

# SGLang's MoE layers say "gelu" for the tanh form.
ACTIVATIONS: Mapping[str, Any] = {"gelu": "gelu_tanh", "silu": "silu"}
_E4M3_NAN = 0x7F
# The dtypes and the columns of a tensor in a checkpoint.
Stored = tuple[tuple[torch.dtype, ...], int]


@dataclass(frozen=True)
class Weight:
    """Name one packed weight's parameters in a layer; `divides`: its tensor scale divides."""

    packed: str
    block: str
    tensor: str
    divides: bool = False

    @property
    def rows(self) -> str:
        """Return the name of the buffer of scales per row, fp32 [N] or [E, N]."""
        return f"{self.packed}_row_scale"


def weights(packed: str, tensor: str, divides: bool = False) -> tuple[Weight, Weight, Weight]:
    """Return a format's names: of a linear, of the stacked gate/up, and of the down experts."""

    def stacked(stack: str) -> Weight:
        return Weight(stack + packed, f"{stack}weight_scale", stack + tensor, divides)

    return stacked(""), stacked("w13_"), stacked("w2_")


# By the tool that wrote them: of a linear, of stacked gate and up experts, of down experts.
MODELOPT_WEIGHTS = weights("weight", "weight_scale_2")
COMPRESSED_TENSORS_WEIGHTS = weights("weight_packed", "weight_global_scale", divides=True)


def weight_of(linear: Any) -> Weight | None:
    """Return the NVFP4 weight of one of SGLang's linears; None if it has no row scales."""
    linears = (MODELOPT_WEIGHTS[0], COMPRESSED_TENSORS_WEIGHTS[0])
    return next((weight for weight in linears if hasattr(linear, weight.rows)), None)


def sglang_has_a_reference() -> bool:
    """Tell whether --fp4-gemm-backend of this SGLang offers a dequantizing reference."""
    from sglang.srt.layers.quantization import fp4_utils

    return any("dequant" in str(backend.value) for backend in fp4_utils.Fp4GemmRunnerBackend)


def allow_fp32(dtypes: list[torch.dtype], *args: Any) -> list[torch.dtype]:
    """AFTER get_supported_act_dtypes: allow fp32, but not for the fused kernels on a GPU."""
    if fused() and not Settings.from_env().cpu:
        return dtypes
    return [*dtypes, torch.float32]


@functools.cache
def fused() -> bool:
    """Return whether this process multiplies by the fused kernels, and register their operators.

    Layers call it while loading, because torch.compile cannot trace its conditions.
    """
    chosen = checkpoint.uses_fused(here())
    if chosen:
        from sglang_gemma4_ext.kernels import _arrivals
        from sglang_gemma4_ext.patches.weights import _ops

        _ops.register()
        if not counters_are_safe():
            _arrivals.keep_none()
    return chosen


def takes(layer: Any) -> bool:
    """Tell whether the weights of a LinearBase or FusedMoE are ours, and not SGLang's Marlin's."""
    shape = shape_of(layer)
    ours = checkpoint.takes(here(), *shape)
    if ours and checkpoint.shared_with_marlin(here()) and not checkpoint.refused(*shape):
        _say_once(*shape)
    return ours


@functools.cache
def _say_once(layer: Layer, n: int, k: int, activation: str | None = None) -> None:
    where = checkpoint.table(here()).measured
    logger.info(
        "NVFP4: fused kernels for %s of %d x %d: faster than Marlin in %s", layer, n, k, where
    )


def shape_of(layer: Any) -> tuple[Any, ...]:
    """Return the arguments of `checkpoint.takes` for a layer under construction."""
    from sglang.srt.distributed.utils import get_group_rank_size
    from sglang.srt.layers.linear import LinearBase, RowParallelLinear
    from sglang.srt.layers.moe.fused_moe_triton import FusedMoE

    if isinstance(layer, FusedMoE):
        rows = 2 * layer.intermediate_size_per_partition
        return "experts", rows, layer.hidden_size, layer.moe_runner_config.activation
    if not isinstance(layer, LinearBase):  # a vocabulary, which is in no table
        return "linear", 0, 0
    _, ranks = get_group_rank_size(layer.tp_group)
    if isinstance(layer, RowParallelLinear):
        return "linear", layer.output_size, layer.input_size // ranks
    return "linear", layer.output_size // ranks, layer.input_size


@functools.cache
def here() -> Context:
    return Context.here(Settings.from_env())


def require_group_size(where: str, group_size: int | None) -> None:
    if group_size != BLOCK:
        raise ValueError(
            f"{where}: NVFP4 has one scale for every {BLOCK} weights, this checkpoint one for "
            f"every {group_size}; export it again with group size {BLOCK}"
        )


def require_whole_blocks(where: str, k: int) -> None:
    """Raise ValueError if `k`, a shard's in-features, ends within a block of 16."""
    if k % BLOCK:
        raise ValueError(
            f"{where}: a tensor-parallel shard has {k} in-features, which is not a multiple of 16; "
            "start with a smaller --tp-size"
        )


def require_runnable_experts(layer: Any) -> None:
    """Raise ValueError on a way to serve that the experts cannot follow."""
    from sglang.srt.model_executor.cuda_graph_config import cuda_graph_fully_disabled

    settings = here().settings
    if settings.weights == "dequant" and not settings.cpu and not cuda_graph_fully_disabled():
        raise ValueError(
            "--gemma4-weights dequant reads expert ids on the host, which a CUDA graph cannot hold;"
            " start with --cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled"
        )
    if layer.moe_ep_size > 1:
        raise ValueError(
            f"{layer.layer_name}: 4-bit experts cannot be spread over ranks; start with "
            "--ep-size 1 (tensor parallelism splits each expert)"
        )


def checked(
    loader: Callable[..., None], layer: Any, where: str, full_k: Mapping[Weight, int]
) -> Callable[..., None]:
    """Wrap a weight loader: refuse tensors that are not NVFP4, and record those that came.

    full_k: in-features of each of the layer's weights, before tensor parallelism
    """
    expected: dict[str, Stored] = {w.packed: ((torch.uint8,), k // 2) for w, k in full_k.items()}
    expected |= {w.block: ((torch.float8_e4m3fn,), k // BLOCK) for w, k in full_k.items()}
    for k in full_k.values():
        if k % BLOCK:
            raise ValueError(
                f"{where}: {k} in-features are not a multiple of 16, as NVFP4 needs; export it "
                "again in another format"
            )
    return recorded(loader, layer, where, expected)


def recorded(
    loader: Callable[..., None], layer: Any, where: str, expected: Mapping[str, Stored]
) -> Callable[..., None]:
    """Wrap a weight loader: refuse tensors of another layout, and record the rows that came."""
    layer.rows_seen = {name: {} for name in expected}

    def load(param: Any, loaded: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        name = next((n for n in expected if param is getattr(layer, n)), None)
        if name is not None:
            shard = shard_of(args, **kwargs)
            _require_layout(f"{where}.{name}", loaded, *expected[name], param.shape[-1])
            _require_numbers(f"{where}.{name}", loaded)
            layer.rows_seen[name][shard] = loaded.shape[0]
        loader(param, loaded, *args, **kwargs)

    return load


def shard_of(args: tuple[Any, ...], shard_id: Any = None, expert_id: Any = None, **_: Any) -> Any:
    """Find the part of a parameter that a loader was called for: (shard, expert).

    SGLang's loaders are called with a shard, or with a name, a shard and an expert; by name or not.
    """
    if len(args) == 3:  # stacked experts: name, shard, expert
        return args[1:]
    return (shard_id if shard_id is not None or not args else args[0]), expert_id


def _require_layout(
    where: str, loaded: torch.Tensor, dtypes: tuple[torch.dtype, ...], columns: int, part: int
) -> None:
    """Require the tensor's layout. part: columns of a shard, for checkpoints split by rank."""
    if loaded.dtype in dtypes and loaded.dim() == 2 and loaded.shape[1] in (columns, part):
        return
    names = " or ".join(map(str, dtypes))
    raise ValueError(
        f"{where}: expected {names} [rows, {columns}], the checkpoint holds {loaded.dtype} "
        f"{list(loaded.shape)}; if this layer is not quantized, its quantization config must say "
        "so, and if its scales are swizzled for a kernel, export it again without"
    )


def _require_numbers(where: str, loaded: torch.Tensor) -> None:
    """Refuse NaN, which the kernels decode as 480."""
    if loaded.is_floating_point() and bool(loaded.isnan().any()):
        raise ValueError(
            f"{where}: the checkpoint holds NaN among its numbers; it is damaged: copy or export "
            "it again"
        )


def mark_unloaded(layer: Any, weight: Weight) -> None:
    """Fill every scale with NaN, so that one that is never loaded is found."""
    getattr(layer, weight.block).data.view(torch.uint8).fill_(_E4M3_NAN)
    getattr(layer, weight.tensor).data.fill_(torch.nan)


def finish(layer: Any, weight: Weight, where: str, widths: Sequence[int]) -> None:
    """Check that all of a weight was loaded, and spread its tensor scales over its rows.

    widths: rows of each stacked part; each part has one tensor scale
    Raises ValueError naming the layer and what it lacks.
    """
    if lacks_keys(where, {shard for shard, _ in layer.rows_seen[weight.packed]}):
        getattr(layer, weight.packed).data[widths[0] :] = 0
        getattr(layer, weight.block).data[widths[0] :] = 0
        getattr(layer, weight.tensor).data[1:] = getattr(layer, weight.tensor).data[:1]
    packed, block = getattr(layer, weight.packed).data, getattr(layer, weight.block).data
    tensor = getattr(layer, weight.tensor).data.reshape(*packed.shape[:-2], len(widths))
    scale = 1 / tensor if weight.divides else tensor
    if any(bool(part.isnan().any()) for part in parts(block)):
        raise ValueError(lacking(where, weight.block))
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise ValueError(lacking(where, weight.tensor))
    if layer.rows_seen[weight.packed] != layer.rows_seen[weight.block]:
        raise ValueError(lacking(where, f"{weight.packed} with as many rows as {weight.block}"))
    repeats = torch.tensor(widths, device=scale.device)
    rows = torch.repeat_interleave(scale, repeats, dim=-1).contiguous()
    if hasattr(layer, weight.rows):
        getattr(layer, weight.rows).copy_(rows)  # reloaded: a captured graph reads this memory
    else:
        layer.register_buffer(weight.rows, rows, persistent=False)
    layer.gemma4_fused = fused()
    if layer.gemma4_fused:
        from sglang_gemma4_ext.kernels._bf16_decode import holds

        holds(packed.device)  # tried here, since a capture of a graph cannot wait for the result


def parts(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """Split a layer into its experts, so that temporaries are one expert large."""
    return tensor.unbind() if tensor.dim() == 3 else (tensor,)


def lacking(where: str, what: str) -> str:
    return (
        f"{where}: the checkpoint lacks {what}, in whole or in part; it is incomplete, or its "
        "quantization config counts this layer among the quantized ones by mistake"
    )


def lacks_keys(where: str, loaded: Collection[Any]) -> bool:
    """Tell whether the layer is a KV-shared qkv_proj: checkpoints lack its k and v.

    loaded: the shards that came
    """
    match = re.search(r"layers\.(\d+)\.self_attn\.qkv_proj$", where)
    if match is None or set(loaded) != {"q"}:
        return False
    from sglang.srt.runtime_context import process_model_config

    text = process_model_config().hf_text_config
    return checkpoint.absent_projections(text, int(match[1])) == {"k", "v"}


def apply_linear(
    layer: Any, weight: Weight, x: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    if layer.gemma4_humming is not None:
        return humming.linear(layer.gemma4_humming, x, bias)
    if layer.gemma4_fused:
        return torch.ops.sglang_gemma4_ext.nvfp4_linear(x, *_tensors(layer, weight), bias, None)
    return nvfp4_linear_ref(x, *_tensors(layer, weight), bias)


def apply_gate_up(layer: Any, weight: Weight, x: torch.Tensor) -> torch.Tensor:
    """Compute gelu(gate) * up of a stacked linear without bias, by the fused kernel."""
    tensors = _tensors(layer, weight)
    return torch.ops.sglang_gemma4_ext.nvfp4_linear(x, *tensors, None, "gelu_tanh")


def apply_experts(layer: Any, w13: Weight, w2: Weight, activation: str, dispatched: Any) -> Any:
    """Run the experts on SGLang's StandardDispatchOutput; return its StandardCombineInput."""
    from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

    if layer.gemma4_humming is not None:
        return humming.experts(layer.gemma4_humming, dispatched)
    x = dispatched.hidden_states
    experts = torch.ops.sglang_gemma4_ext.nvfp4_experts if layer.gemma4_fused else nvfp4_experts_ref
    routing = dispatched.topk_output
    out = experts(
        x,
        routing.topk_ids,
        routing.topk_weights,
        *_tensors(layer, w13),
        *_tensors(layer, w2),
        ACTIVATIONS.get(activation, activation),
    )
    return StandardCombineInput(hidden_states=out)


def _tensors(layer: Any, weight: Weight) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(getattr(layer, name) for name in (weight.packed, weight.block, weight.rows))
