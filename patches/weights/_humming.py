# SPDX-License-Identifier: Apache-2.0
"""Multiply 4-bit weights by Humming, the mixed-precision kernels that SGLang installs.

Humming wants its own layout. A layer's tensors are repacked once, on the GPU, after they are loaded
and checked. Linears run Humming's dense kernel. Experts run SGLang's own runner for it, with the
tanh form of gelu between the two matmuls. From K = 1024 on, several thread blocks may share an
output, and each rounds its sum to the activations' dtype. Four or more add in no fixed order, so
such results may differ in the last bits from run to run.

A tensor scale stays fp32 if all rows of a weight share it. Humming would round the scales of rows
to the activations' dtype, so a weight with unequal ones is left to our kernels. So are weights
whose INT4 scales that dtype cannot hold.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK
from sglang_gemma4_ext.plan.padding import COLUMNS, row_multiple

if TYPE_CHECKING:
    from humming.layer import HummingLayerMeta

# How linears are computed: sums in fp32.
DENSE = json.dumps({"use_f16_accum": False, "gemm_type": "dense"})
_LOCKS = 1024
_ACTIVATIONS = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Stored:
    """Hold a weight as the checkpoint has it, of a linear or of stacked experts.

    packed: codes, uint8 [.., N, K/2] or int32 [.., N, K/8], the lowest in-feature in the low bits
    scale: NVFP4's E4M3 [.., N, K/16], or INT4's [.., N, G]
    tensor: NVFP4's tensor scale of each row, fp32 [.., N]; None for INT4
    zero: INT4's packed zero points, int32 [.., N/8, G]; None for 8
    """

    packed: torch.Tensor
    scale: torch.Tensor
    tensor: torch.Tensor | None = None
    zero: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        return self.packed.shape[-2]

    @property
    def columns(self) -> int:
        return self.packed.shape[-1] * self.packed.element_size() * 2

    @property
    def experts(self) -> int | None:
        return len(self.packed) if self.packed.dim() == 3 else None


def lacking(stored: Stored, dtype: torch.dtype) -> str | None:
    """Return why Humming cannot multiply a weight exactly, or None. dtype: of activations"""
    if dtype not in _ACTIVATIONS:
        return f"Humming has no {dtype} activations"
    if stored.rows % 8 or stored.columns % 8:
        return "Humming takes multiples of 8 x 8"
    if stored.tensor is not None:
        same = (stored.tensor == stored.tensor[..., :1]).all()
        return None if same else "its rows have several tensor scales"
    if stored.zero is not None and stored.scale.shape[-1] == 1:
        return "Humming has no zero points of whole rows"
    if not torch.equal(stored.scale.to(dtype).to(stored.scale.dtype), stored.scale):
        return f"{dtype} cannot hold its scales"
    return None


def repack(
    holder: torch.nn.Module,
    stored: Stored,
    dtype: torch.dtype,
    capability: tuple[int, int],
    sublayer: str = "",
) -> HummingLayerMeta:
    """Register a weight in Humming's layout as parameters of `holder`, and describe it.

    sublayer: w13 or w2 of experts
    """
    from humming.layer import HummingMethod
    from humming.transform import transform_humming_tensors

    meta = HummingMethod.prepare_layer_meta(
        layer=holder,
        shape_n=stored.rows,
        shape_k=stored.columns,
        weight_schema=_schema(stored, dtype),
        num_experts=stored.experts,
        pad_n_to_multiple=row_multiple(capability),
        pad_k_to_multiple=COLUMNS,
        torch_dtype=dtype,
        sublayer_name=sublayer,
    )
    for name, tensor in transform_humming_tensors(meta, _tensors(stored, dtype)).items():
        parameter = torch.nn.Parameter(tensor, requires_grad=False)
        holder.register_parameter(meta.name_prefix + name, parameter)
    return meta


def _schema(stored: Stored, dtype: torch.dtype) -> Any:
    from humming import dtypes
    from humming.config import WeightScale2Type, WeightScaleType
    from humming.schema import HummingWeightSchema

    if stored.tensor is not None:
        return HummingWeightSchema(
            b_dtype=dtypes.float4e2m1,
            bs_dtype=dtypes.float8e4m3,
            weight_scale_group_size=BLOCK,
            weight_scale_type=WeightScaleType.GROUP,
            weight_scale_2_type=WeightScale2Type.TENSOR,
        )
    groups = stored.scale.shape[-1]
    return HummingWeightSchema(
        b_dtype=dtypes.uint4,
        bs_dtype=dtypes.DataType.from_torch_dtype(dtype),
        weight_scale_group_size=0 if groups == 1 else stored.columns // groups,
        has_zero_point=stored.zero is not None,
    )


def _tensors(stored: Stored, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    tensors = {"weight": stored.packed.contiguous().view(torch.int32)}
    if stored.tensor is not None:
        tensors["weight_scale"] = stored.scale
        tensors["weight_scale_2"] = stored.tensor[..., 0].reshape(stored.experts or 1).contiguous()
    else:
        tensors["weight_scale"] = stored.scale.to(dtype)
        if stored.zero is not None:
            tensors["zero_point"] = stored.zero
    return tensors


def prepare(
    layer: Any, weights: Mapping[str, Stored], capability: tuple[int, int]
) -> torch.nn.Module:
    """Repack a layer's weights into a module, and compile their kernels for every token count.

    weights: of a linear under "", or of a FusedMoE under w13 and w2, whose module gets a `runner`
    """
    (device,) = {stored.packed.device for stored in weights.values()}
    holder = torch.nn.Module()
    # Thread blocks that share an output wait for each other by these locks. Layers may run at the
    # same time on two streams, so each has its own.
    locks = torch.zeros(_LOCKS, dtype=torch.int32, device=device)
    holder.register_buffer("locks", locks, persistent=False)
    metas = {
        name: repack(holder, stored, layer.params_dtype, capability, name)
        for name, stored in weights.items()
    }
    if "w13" not in weights:
        _compile(metas[""], DENSE, None)
        return holder
    for name in ("intermediate_size_per_partition", "hidden_size", "params_dtype"):
        setattr(holder, name, getattr(layer, name))
    holder.runner = _runner()(layer.moe_runner_config)
    holder.runner.layer = holder
    tuned = holder.runner.get_humming_gemm_configs(_indexed())
    for name, meta in metas.items():
        _compile(meta, tuned["compute_config_str"], tuned[f"{name}_tuning_config_str"])
    return holder


def _compile(meta: HummingLayerMeta, compute: str, tuned: str | None) -> None:
    from humming.kernel.humming import HummingKernel

    HummingKernel.prepare_kernels(meta.to_str(), compute, tuned)


def _indexed() -> Any:
    from humming.config import GemmType

    return GemmType.INDEXED


def linear(holder: Any, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Multiply x [.., K] by the transposed weight; returns [.., N]."""
    from humming.layer import HummingMethod

    out = HummingMethod.forward_layer(
        layer=holder,
        inputs=x.reshape(-1, x.shape[-1]),
        compute_config=DENSE,
    )
    out = out.view(*x.shape[:-1], out.shape[-1])
    return out if bias is None else out + bias


@functools.cache
def _runner() -> type:
    from sglang.srt.layers.moe.moe_runner.humming import HummingRunnerCore

    class TanhGeluRunner(HummingRunnerCore):
        """Apply Gemma's gelu: SGLang's "gelu" is the erf form here."""

        def apply_activation(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
            if self.activation == "gelu":
                from sglang.srt.layers.activation import gelu_tanh_and_mul

                gelu_tanh_and_mul(inputs, outputs)
            else:
                super().apply_activation(inputs, outputs)

    return TanhGeluRunner


def experts(holder: Any, dispatched: Any) -> Any:
    """Run the experts on SGLang's StandardDispatchOutput; return its StandardCombineInput."""
    from sglang.srt.layers.moe.moe_runner.humming import humming_moe_runner_core_run
    from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

    routing = dispatched.topk_output
    out = humming_moe_runner_core_run(
        moe_runner_id=id(holder.runner),
        gemm_type="indexed",
        hidden_states=dispatched.hidden_states,
        topk_weights=routing.topk_weights,
        topk_ids=routing.topk_ids,
    )
    return StandardCombineInput(hidden_states=out)
