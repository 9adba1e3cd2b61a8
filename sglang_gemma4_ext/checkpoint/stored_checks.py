# SPDX-License-Identifier: Apache-2.0
"""Check that FP8 and INT4 tensors of a checkpoint have scales, before they are read."""

from __future__ import annotations

from collections.abc import Mapping

from sglang_gemma4_ext.checkpoint.files import CheckpointError, Tensor
from sglang_gemma4_ext.checkpoint.schemes import INTEGER_WORDS, Quantization

_FP8_SCALES = ("weight_scale", "weight_scale_inv")


def check_stored(tensors: Mapping[str, Tensor], quantization: Quantization) -> None:
    """Refuse codes without scales. Raises CheckpointError."""
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and tensor.dtype == "F8_E4M3":
            _require_any(name, module, _FP8_SCALES, tensors, quantization)
        elif leaf == "qweight" and quantization.tool in INTEGER_WORDS:
            _require_any(name, module, ("scales",), tensors, quantization)


def _require_any(
    name: str,
    module: str,
    leaves: tuple[str, ...],
    tensors: Mapping[str, Tensor],
    quantization: Quantization,
) -> None:
    if any(f"{module}.{leaf}" in tensors for leaf in leaves):
        return
    if quantization.of(module).format in ("fp8", "int"):
        raise CheckpointError(
            f"{name} has no {' or '.join(leaves)}: the checkpoint is incomplete, export or "
            "download it again"
        )
