# SPDX-License-Identifier: Apache-2.0
"""Serve INT4 checkpoints of GPTQ, AWQ and AutoRound where SGLang's Marlin cannot.

Their words are rearranged to our INT4 layout while they load, and scales keep their own dtype. INT8
linears, as AutoRound leaves beside INT4 experts, become INT4 of twice the in-features, exactly.
SGLang is handed the config of AutoRound, which covers both packings on every platform. Linears that
Marlin takes on a GPU stay with SGLang. Experts, whose gelu Marlin refuses, are ours.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.checkpoint.schemes import INTEGER_WORDS
from sglang_gemma4_ext.checkpoint.stored import Layer
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels import int4_words
from sglang_gemma4_ext.kernels.int4_format import MIN_GROUP, ROWS_A_WORD
from sglang_gemma4_ext.patches.weights import _int4_layers as int4
from sglang_gemma4_ext.patches.weights import _layers
from sglang_gemma4_ext.patches.weights import _settle as settle
from sglang_gemma4_ext.patches.weights import _word_packings as packings
from sglang_gemma4_ext.patches.weights._stored import (
    WEIGHT_UTILS,
    is_ours,
    name_checkpoint,
    plain_method,
    stored_layer,
)
from sglang_gemma4_ext.registry import Hook, Patch, Source

MODEL_CONFIG = "sglang.srt.configs.model_config.ModelConfig"
CONFIG = "sglang.srt.layers.quantization.auto_round.AutoRoundConfig"
_AUTO_ROUND = "auto-round"
_PACKINGS = {"gptq": "auto_round:auto_gptq", "awq": "auto_round:auto_awq"}


def _as_auto_round(model_config: Any) -> None:
    """BEFORE _verify_quantization: describe GPTQ and AWQ as AutoRound does."""
    section = getattr(model_config.hf_config, "quantization_config", None)
    section = section if isinstance(section, dict) or section is None else section.to_dict()
    if not section or model_config.quantization is not None:
        return
    tool = str(section.get("quant_method") or "").lower()
    if tool not in _PACKINGS:
        return
    bits, group = section.get("bits", section.get("w_bit")), section.get("group_size")
    exceptions = [own for own in (section.get("dynamic") or {}).values() if own]
    if any(own.get("bits", bits) != bits for own in exceptions):
        return  # AutoRound's config names such layers otherwise
    group = section.get("q_group_size") if group is None else group
    symmetric = section.get("sym", not section.get("zero_point", tool == "awq"))
    model_config.hf_config.quantization_config = {
        **section,
        "quant_method": _AUTO_ROUND,
        "bits": bits,
        "group_size": -1 if group is None else group,
        "sym": symmetric,
        "packing_format": _PACKINGS[tool],
    }


def _get_quant_method(original: Callable[..., Any], config: Any, layer: Any, prefix: str) -> Any:
    """AROUND get_quant_method: give our methods to INT4 layers that Marlin cannot serve."""
    stored = stored_layer(config, prefix) if is_ours(layer) else None
    if stored is None or stored.stored not in ("plain", "int4-words", "int8-words"):
        return original(config, layer, prefix)
    if stored.stored == "plain":
        return plain_method(layer)
    if stored.stored == "int8-words" and not _is_linear(layer):
        return original(config, layer, prefix)
    if not int4.takes(layer, stored.group) and (stored.by_row or config.sym):
        return original(config, layer, prefix)
    one_less = config.checkpoint_format != "gptq_v2"
    if _is_linear(layer):
        return _linear()(prefix, stored, one_less)
    _layers.require_runnable_experts(layer)
    return _experts()(prefix, stored, one_less)


def _is_linear(layer: Any) -> bool:
    from sglang.srt.layers.linear import LinearBase

    return isinstance(layer, LinearBase)


def require_servable(where: str, group: int, full_k: int, k: int) -> None:
    """Raise ValueError on a group that no kernel reads.

    full_k, k: in-features, whole and of one rank
    """
    if group != full_k and (group < MIN_GROUP or group & (group - 1)):
        raise ValueError(
            f"{where}: one scale for {group} weights; INT4 is served with groups of 32, 64, 128 or "
            "another power of two, or with one scale a row: quantize again"
        )
    if group != full_k and k % group:
        raise ValueError(
            f"{where}: a rank's share has {k} in-features, no multiple of the {group} that share "
            "one scale; start with a smaller --tp-size"
        )


@functools.cache
def _linear() -> type:
    from sglang.srt.layers import parameter
    from sglang.srt.layers.quantization.base_config import LinearMethodBase

    class GPTQLinearMethod(LinearMethodBase):
        """Keep the class name by which SGLang's linears choose a loader of whole parameters."""

        def __init__(self, where: str, stored: Layer, one_less: bool) -> None:
            self.where, self.stored, self.one_less = where, stored, one_less

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
            share, group, rows = (
                input_size_per_partition, self.stored.group, sum(output_partition_sizes)
            )  # fmt: skip
            require_servable(self.where, group, input_size, share)
            self.how = packings.How(self.stored, self.one_less)
            if self.stored.stored == "int8-words":
                self.how = packings.Halves(self.stored, self.one_less, input_size, share)
                input_size, share, group = 2 * input_size, 2 * share, self.how.unit
            groups = 1 if group == input_size else share // group
            whole = {int4.WORDS: (input_size, input_size // group)}
            expected = int4.expected(whole, self.stored.zeros)
            loader = _layers.recorded(weight_loader, layer, self.where, expected)
            loader = packings.rearranged(loader, layer, (int4.WORDS,), self.how)
            axes = {"output_dim": 0, "weight_loader": loader}
            packing = {"packed_factor": ROWS_A_WORD, "packed_dim": 0}
            across = {"input_dim": 1} if groups > 1 or share != input_size else {}
            across = {} if group == input_size else across
            kinds = (
                (parameter.GroupQuantScaleParameter, parameter.PackedvLLMParameter)
                if across
                else (parameter.ChannelQuantScaleParameter, parameter.PackedColumnParameter)
            )
            codes = torch.empty(rows, share // ROWS_A_WORD, dtype=torch.int32)
            layer.register_parameter(
                "qweight", parameter.ModelWeightParameter(data=codes, input_dim=1, **axes)
            )
            # Scales of GPTQ and AWQ are FP16; BF16 would round them.
            scales = torch.full((rows, groups), torch.nan, dtype=torch.float16)
            layer.register_parameter("scales", kinds[0](data=scales, **axes, **across))
            if self.stored.zeros:
                zeros = torch.zeros(rows // ROWS_A_WORD, groups, dtype=torch.int32)
                layer.register_parameter(
                    "qzeros", kinds[1](data=zeros, **axes, **across, **packing)
                )
            layer.output_widths = list(output_partition_sizes)

        def process_weights_after_loading(self, layer) -> None:
            finish(layer, int4.WORDS, self.where, layer.output_widths)
            if self.stored.stored == "int8-words":  # of the halves Humming knows nothing
                layer.gemma4_humming = None
            else:
                settle.int4(layer, int4.WORDS)

        def apply(self, layer, x, bias=None) -> torch.Tensor:
            return int4.apply_linear(layer, self.how.activations(x), bias, int4.WORDS)

    return GPTQLinearMethod


def finish(layer: Any, weight: int4.Weight, where: str, widths: list[int]) -> None:
    """Check that all of a weight was loaded, and forget zero points that are all 8."""
    int4.finish(layer, weight, where, widths)
    zero = getattr(layer, weight.zero, None)
    if zero is not None and int4_words.all_symmetric(zero.data):
        layer.register_parameter(weight.zero, None)


@functools.cache
def _experts() -> type:
    from sglang.srt.layers.quantization.base_config import FusedMoEMethodBase

    class Gemma4Int4WordExperts(FusedMoEMethodBase):
        runner = None  # a direct kernel, in SGLang's terms: standard top-k, local ids

        def __init__(self, where: str, stored: Layer, one_less: bool) -> None:
            self.where, self.stored, self.how = where, stored, packings.How(stored, one_less)

        def create_weights(self, layer, num_experts, hidden_size, **kwargs) -> None:
            _create_experts(self, layer, num_experts, hidden_size, kwargs)

        def create_moe_runner(self, layer, moe_runner_config) -> None:
            self.moe_runner_config = moe_runner_config

        def process_weights_after_loading(self, layer) -> None:
            for weight in (int4.WORDS_W13, int4.WORDS_W2):
                finish(layer, weight, self.where, [getattr(layer, weight.packed).shape[1]])
            settle.int4(layer, int4.WORDS_W13, int4.WORDS_W2)

        def apply(self, layer, dispatch_output) -> Any:
            activation = self.moe_runner_config.activation
            names = (int4.WORDS_W13, int4.WORDS_W2)
            return int4.apply_experts(layer, activation, dispatch_output, *names)

    return Gemma4Int4WordExperts


def _create_experts(
    method: Any, layer: Any, experts: int, hidden: int, given: dict[str, Any]
) -> None:
    """Register the parameters of stacked experts, in our INT4 layout."""
    from sglang.srt.utils import set_weight_attrs

    share, inner = given.pop("intermediate_size_per_partition"), given["moe_intermediate_size"]
    given.pop("params_dtype")
    where, group, zeros = method.where, method.stored.group, method.stored.zeros
    # Experts of one tool have one group size, or one scale a row, whatever their in-features.
    by_channel = group == hidden
    require_servable(where, hidden if by_channel else group, hidden, hidden)
    require_servable(where, inner if by_channel else group, inner, share)

    def groups(k: int) -> int:
        return 1 if by_channel else k // group

    whole = {int4.WORDS_W13: (hidden, groups(hidden)), int4.WORDS_W2: (inner, groups(inner))}
    expected = int4.expected(whole, zeros)
    loader = _layers.recorded(given["weight_loader"], layer, where, expected)
    loader = packings.rearranged(loader, layer, tuple(whole), method.how)
    kind = "channel" if by_channel else "group"
    attributes = {**given, "weight_loader": loader, "quant_method": kind}
    sizes = ((2 * share, hidden), (hidden, share))
    for weight, (rows, k) in zip(whole, sizes, strict=True):
        tensors = {
            weight.packed: torch.empty(experts, rows, k // ROWS_A_WORD, dtype=torch.int32),
            weight.scale: torch.full((experts, rows, groups(k)), torch.nan, dtype=torch.float16),
        }
        if zeros:
            words = torch.empty(experts, rows // ROWS_A_WORD, groups(k), dtype=torch.int32)
            tensors[weight.zero] = words
        for name, tensor in tensors.items():
            parameter = torch.nn.Parameter(tensor, requires_grad=False)
            layer.register_parameter(name, parameter)
            set_weight_attrs(parameter, attributes)


def _stands_down(ctx: Context) -> str | None:
    if not ctx.settings.cpu and not ctx.gpu.is_target:
        return f"it is for NVIDIA GPUs of compute capability 8.0 to 9.x; here: {ctx.gpu}"
    if ctx.model is None:
        return None
    quantization = describe(ctx.model)
    ours = any(s.format == "int" and s.bits in (4, 8) for s in quantization.schemes)
    if quantization.tool in INTEGER_WORDS and ours:
        return None
    return "the checkpoint is not an INT4 or INT8 one of GPTQ, AWQ or AutoRound"


def _retired() -> bool:
    from sglang.srt.layers.quantization import marlin_utils

    return "gelu" in inspect.getsource(marlin_utils.check_moe_marlin_supports_layer)


PATCH = Patch(
    name="int4_gptq_awq",
    theme="weights",
    summary="INT4 of GPTQ, AWQ and AutoRound serves, experts with gelu and INT8 linears included",
    why="Marlin refuses gelu experts and a K that 128 does not divide; GPTQ with zero points has "
    "no method left; the CPU's methods need Intel's AMX",
    upstream="unreported",
    retire_when="Marlin takes experts with gelu and every K of Gemma 4",
    retired=_retired,
    hooks=(
        Hook(f"{WEIGHT_UTILS}.get_quant_config", "6ac93e175067", "after", name_checkpoint),
        Hook(f"{MODEL_CONFIG}._verify_quantization", "44d51f89fda5", "before", _as_auto_round),
        Hook(f"{CONFIG}.get_quant_method", "63a100564410", "around", _get_quant_method),
        Hook(f"{CONFIG}.get_supported_act_dtypes", "05f040c88fda", "after", _layers.allow_fp32),
    ),
    relies_on=(
        Source(f"{CONFIG}.from_config", "8fefd8e53286"),
        Source(
            "sglang.srt.layers.moe.fused_moe_triton.layer.FusedMoE._weight_loader_impl",
            "fedef474ee3d",
        ),
    ),
    stands_down=_stands_down,
)
