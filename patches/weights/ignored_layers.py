# SPDX-License-Identifier: Apache-2.0
"""Recognize layers that a quantized checkpoint left in BF16, under SGLang's names.

A checkpoint lists its unquantized modules by its own names. SGLang asks for q, k and v of every
attention layer, calls a layer's experts `moe.experts`, and fuses and unwraps a tower's linears. A K
= V layer has no v_proj to list, so it stops the server. Unquantized experts or towers would count
as quantized.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.checkpoint.schemes import COMPRESSED_TENSORS, MODELOPT
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.weights._dispatch import absent_projections
from sglang_gemma4_ext.registry import Hook, Patch, Source

QUANTIZATION = "sglang.srt.layers.quantization"
WEIGHT_UTILS = "sglang.srt.model_loader.weight_utils"

_ATTENTION = re.compile(r"(?P<attention>.*layers\.(?P<layer>\d+)\.self_attn)\.q_proj")
_EXPERTS = re.compile(r"(?P<layer>.*layers\\?\.[^.]+)(?P<dot>\\?\.)experts(?P<rest>.*)")
_TOWER = re.compile(r"(model\.)?(?P<tower>(vision|audio)_tower|embed_(vision|audio))\..*")


def _complete(result: Any, model_config: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER get_quant_config: add SGLang's names to the list, in either format."""
    for listed in ("exclude_modules", "ignore"):
        names = getattr(result, listed, None)
        if names:
            setattr(result, listed, completed(names, model_config.hf_text_config))


def completed(names: Iterable[str], text: Any) -> list[str]:
    """Return `names`, followed by their names in SGLang's module tree.

    text: the text part of the model's configuration
    """
    added = []
    for name in names:
        if match := _TOWER.fullmatch(name):  # exporters quantize towers in whole or not at all
            added.append(rf"re:.*\b{match['tower']}\..*")
        elif match := _ATTENTION.fullmatch(name):
            absent = absent_projections(text, int(match["layer"]))
            added += [f"{match['attention']}.{leaf}_proj" for leaf in sorted(absent)]
        elif match := _EXPERTS.fullmatch(name):
            dot, rest = match["dot"], match["rest"]
            added.append(f"{match['layer']}{dot}moe{dot}experts{rest}")
            if not rest:  # SGLang asks compressed-tensors for the first expert's linears
                experts = added[-1]
                added += [f"{experts}.0.{leaf}_proj" for leaf in ("gate", "up", "down")]
    return list(dict.fromkeys([*names, *added]))


def _stands_down(ctx: Context) -> str | None:
    if ctx.model is None or describe(ctx.model).tool in (MODELOPT, COMPRESSED_TENSORS):
        return None
    return "the checkpoint is not one of ModelOpt or compressed-tensors"


def _retired() -> bool:
    from sglang.srt.models.gemma4_mm import Gemma4ForConditionalGeneration as Gemma4

    # Upstream's own field for such names, which Gemma 4 leaves empty.
    return hasattr(Gemma4, "hf_to_sglang_mapper")


PATCH = Patch(
    name="ignored_layers",
    theme="weights",
    summary="quantized checkpoints with attention, experts or towers in BF16 load",
    why="ignore lists are matched against SGLang's module names, which differ from those "
    "in K = V and KV-shared attention, experts and towers; the mapper that other models give "
    "renames and cannot add",
    upstream="unreported",
    retire_when="the Gemma 4 classes map the names of ignored layers",
    retired=_retired,
    hooks=(Hook(f"{WEIGHT_UTILS}.get_quant_config", "6ac93e175067", "after", _complete),),
    relies_on=(
        Source(f"{QUANTIZATION}.utils.is_layer_skipped", "5e9f9154fff6"),
        Source(
            f"{QUANTIZATION}.modelopt_quant.ModelOptQuantConfig.is_layer_excluded", "ec4e48ed07e0"
        ),
        Source(f"{QUANTIZATION}.compressed_tensors.utils.should_ignore_layer", "447c78f094d5"),
    ),
    stands_down=_stands_down,
)
