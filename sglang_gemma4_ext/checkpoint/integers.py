# SPDX-License-Identifier: Apache-2.0
"""Check what a checkpoint says of its integer weights, and the tensors that it holds of them."""

from __future__ import annotations

from collections.abc import Mapping

from sglang_gemma4_ext.checkpoint.files import CheckpointError, Tensor
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.schemes import (
    COMPRESSED_TENSORS,
    INTEGER_WORDS,
    Quantization,
    Scheme,
)

# Groups are powers of two from here on; see kernels/int4_format.py.
MIN_GROUP = 32
CODES_A_WORD = 8
_EXPERT = "model.language_model.layers.{}.experts.0.down_proj"


def check_declared(
    quantization: Quantization, info: ModelInfo, tensors: Mapping[str, Tensor]
) -> None:
    """Refuse integer formats that nothing serves. Raises CheckpointError.

    tensors: of the checkpoint, empty where they are not read. GPTQModel declares integers for all
        linears, but leaves experts as they are.
    """
    served = quantization.tool in (COMPRESSED_TENSORS, *INTEGER_WORDS)
    for scheme in quantization.schemes if served else ():
        if scheme.format == "int":
            _check_scheme(scheme, quantization)
    if not info.is_moe or any(_plain_expert(*named) for named in tensors.items()):
        return
    layers = range(len(info.text.get("layer_types") or [None]))
    for scheme in {quantization.of(_EXPERT.format(layer)) for layer in layers}:
        if scheme.format == "int":
            _check_experts(scheme, quantization, info)


def _plain_expert(name: str, tensor: Tensor) -> bool:
    matrix = name.endswith((".weight", "_proj")) and tensor.dtype in ("BF16", "F16", "F32")
    return matrix and ".experts." in name


# Of GPTQ, and of compressed-tensors.
_REORDERING = ("desc_act", "actorder group")
_WITHOUT = ("with desc_act=False", "with actorder static or none")


def _check_scheme(scheme: Scheme, quantization: Quantization) -> None:
    if scheme.reordered:
        tensors = quantization.tool == COMPRESSED_TENSORS
        raise CheckpointError(
            f"{quantization.file} declares activation reordering ({_REORDERING[tensors]}), "
            f"which is not served: quantize again {_WITHOUT[tensors]}"
        )
    group = scheme.group
    if scheme.bits == 4 and group and (group < MIN_GROUP or group & (group - 1)):
        raise CheckpointError(
            f"{quantization.file} declares integers with group size {group}; served are 32, 64, "
            "128 or another power of two, and one scale a row: quantize again"
        )


def _check_experts(scheme: Scheme, quantization: Quantization, info: ModelInfo) -> None:
    """Marlin, to which SGLang gives integer experts, refuses Gemma's gelu; ours are INT4."""
    if quantization.tool not in (COMPRESSED_TENSORS, *INTEGER_WORDS) or scheme.bits != 4:
        bits = f"{scheme.bits}-bit " if scheme.bits else ""
        raise CheckpointError(
            f"{quantization.file} declares experts in {bits}integers of {quantization.tool}, which "
            "no kernel serves with Gemma's gelu: use a checkpoint with experts in BF16, FP8, NVFP4 "
            "or INT4 of compressed-tensors, GPTQ or AWQ"
        )
    inner = info.text.get("moe_intermediate_size")
    if scheme.group and isinstance(inner, int) and inner % scheme.group:
        raise CheckpointError(
            f"{quantization.file} declares experts with group size {scheme.group}, which does not "
            f"divide their {inner} in-features: quantize again with a smaller group size"
        )


def check_tensors(
    tensors: Mapping[str, Tensor], quantization: Quantization, hidden: object
) -> None:
    """Refuse codes without scales or zero points of their shape. Raises CheckpointError.

    hidden: the model's hidden size
    A linear has `.weight_packed`; experts stacked in one tensor have `down_proj_packed`.
    """
    if quantization.tool != COMPRESSED_TENSORS:
        return
    for name, tensor in tensors.items():
        if not name.endswith("_packed") or tensor.dtype != "I32" or len(tensor.shape) < 2:
            continue
        start = name.removesuffix("packed")
        scheme = quantization.of(start.removesuffix("_").removesuffix(".weight"))
        if scheme.format == "int" and scheme.bits == 4 == stored_bits(
            name, scheme, tensors, hidden
        ):
            _check_packed(start, tensor, scheme, tensors)


def stored_bits(
    name: str, scheme: Scheme, tensors: Mapping[str, Tensor], hidden: object
) -> int | None:
    """Return the bits of a code in a tensor of words, which may differ from the declared ones.

    name: ends in `.weight_packed`; hidden: the model's hidden size
    The in-features of the layer tell; where they are not known, the declared bits are returned.
    """
    k = _in_features(name, tensors, hidden)
    bits, rest = divmod(32 * tensors[name].shape[-1], k) if k else (0, 0)
    return bits if rest == 0 and bits in (2, 4, 8) else scheme.bits


# The linear whose rows are the in-features of another one in its module.
_BEFORE = {"o_proj": "q_proj", "down_proj": "up_proj"}
_OF_HIDDEN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")


def _in_features(name: str, tensors: Mapping[str, Tensor], hidden: object) -> int | None:
    parent, _, module = name.removesuffix(".weight_packed").rpartition(".")
    if module in _OF_HIDDEN and isinstance(hidden, int):
        return hidden
    before = f"{parent}.{_BEFORE.get(module)}"
    found = tensors.get(f"{before}.weight") or tensors.get(f"{before}.weight_packed")
    return found.shape[0] if found and found.shape else None


def _check_packed(
    start: str, packed: Tensor, scheme: Scheme, tensors: Mapping[str, Tensor]
) -> None:
    """start: the name without `packed`."""
    *stack, rows, words = packed.shape
    k = words * CODES_A_WORD
    groups = k // scheme.group if scheme.group else 1
    expected = {"scale": (*stack, rows, groups)}
    if scheme.zeros:
        expected["zero_point"] = (*stack, rows // CODES_A_WORD, groups)
    for leaf, shape in expected.items():
        found = tensors.get(start + leaf)
        if found is None:
            raise CheckpointError(
                f"INT4 weight {start}packed has no {start.rpartition('.')[2]}{leaf}: the "
                "checkpoint is incomplete, export or download it again"
            )
        if found.shape != shape:
            raise CheckpointError(
                f"INT4 weight {start}packed has {start.rpartition('.')[2]}{leaf} of shape "
                f"{list(found.shape)} where {list(shape)} is expected: config.json is of another "
                "checkpoint, copy it from where the weights came from"
            )
