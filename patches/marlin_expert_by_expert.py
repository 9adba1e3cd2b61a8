# SPDX-License-Identifier: Apache-2.0
"""NVFP4 experts are repacked for Marlin one at a time, in the memory that they were loaded into.

SGLang repacks a layer's experts into a list, stacks the list, and keeps what was loaded until the
end: at 26B-A4B's shapes 428 MB of weights need 509 MB more. A repacked expert has as many bytes as
a loaded one; so SGLang's own function is given a layer of one expert, and its result is written
over that expert.

The Marlin runner of 0.5.23 refuses gelu, and a Gemma 4's experts are ours (`_nvfp4_checkpoint`):
they come here when both change.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches._nvfp4_checkpoint import nvfp4_format
from sglang_gemma4_ext.registry import Hook, Patch, Source

MARLIN = "sglang.srt.layers.quantization.marlin_utils_fp4"
REPACKED = ("w13_weight", "w2_weight", "w13_weight_scale", "w2_weight_scale")
RESCALED = ("w13_weight_scale_2", "w2_weight_scale_2")


class _Expert:
    """One expert of a layer, as a layer: its tensors, and all else the layer's."""

    def __init__(self, layer: Any, index: int):
        self._layer = layer
        for name in (*REPACKED, *RESCALED):
            part = getattr(layer, name).data[index : index + 1]
            setattr(self, name, torch.nn.Parameter(part, requires_grad=False))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def _one_at_a_time(
    original: Callable[..., None], layer: Any, group_size: int | None = None
) -> None:
    """AROUND prepare_moe_nvfp4_layer_for_marlin."""
    stored = {name: getattr(layer, name).data for name in REPACKED}
    if not _as_large_repacked(layer) or not all(w.is_contiguous() for w in stored.values()):
        return original(layer, group_size)
    stored = {name: w.view(torch.uint8).flatten(1) for name, w in stored.items()}
    scales: dict[str, list[torch.Tensor]] = {name: [] for name in RESCALED}
    for index in range(len(stored[REPACKED[0]])):
        expert = _Expert(layer, index)
        original(expert, group_size)
        for name, w in stored.items():
            w[index].copy_(getattr(expert, name).data.view(torch.uint8).flatten())
        for name, parts in scales.items():
            parts.append(getattr(expert, name).data)
    for name, w in stored.items():
        like = getattr(expert, name)
        whole = w.view(like.dtype).view(-1, *like.shape[1:])
        setattr(layer, name, torch.nn.Parameter(whole, requires_grad=False))
    for name, parts in scales.items():
        setattr(layer, name, torch.nn.Parameter(torch.cat(parts), requires_grad=False))
    layer.workspace = expert.workspace


def _as_large_repacked(layer: Any) -> bool:
    """Gated experts are not padded; a bias would be permuted with them, and none has one."""
    biases = (getattr(layer, name, None) for name in ("w13_bias", "w2_bias"))
    return layer.moe_runner_config.is_gated and all(bias is None for bias in biases)


def _stands_down(ctx: Context) -> str | None:
    if not ctx.gpu.is_target:
        return "SGLang runs Marlin on NVIDIA GPUs before Blackwell"
    if ctx.model is not None and not (ctx.model.is_moe and nvfp4_format(ctx.model)):
        return "the model has no NVFP4 experts"
    return None


def _retired() -> bool:
    from sglang.srt.layers.quantization import marlin_utils_fp4

    repack = inspect.unwrap(marlin_utils_fp4._repack_moe_fp4_weight_for_marlin)
    return "torch.stack" not in inspect.getsource(repack)


PATCH = Patch(
    name="marlin_expert_by_expert",
    summary="NVFP4 experts are repacked for Marlin without a second copy of a layer's",
    why="SGLang holds a layer's experts three times while it repacks them for Marlin, and does so "
    "when all weights of the model are on the card",
    upstream="unreported",
    retire_when="_repack_moe_fp4_weight_for_marlin no longer stacks a list of experts",
    retired=_retired,
    required=False,
    hooks=(
        Hook(f"{MARLIN}.prepare_moe_nvfp4_layer_for_marlin", "7ee8c6ecdee1", "around",
             _one_at_a_time),
    ),
    relies_on=(
        Source(f"{MARLIN}._repack_moe_fp4_weight_for_marlin", "e3920fdb61fe"),
        Source(f"{MARLIN}._permute_moe_fp4_scales_for_marlin", "cd15aa59b191"),
    ),
    stands_down=_stands_down,
)  # fmt: skip
