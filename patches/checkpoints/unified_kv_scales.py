# SPDX-License-Identifier: Apache-2.0
"""Load the FP8 KV-cache scales of 12B checkpoints.

ModelOpt writes them as `k_proj.k_scale` and `v_proj.v_scale`. SGLang's other Gemma 4 classes rename
them to the names that attention reads. The class of the unified family drops them and keeps a scale
of 1.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

UNIFIED = "sglang.srt.models.gemma4_unified.Gemma4UnifiedForConditionalGeneration"
REMAP = "sglang.srt.model_loader.weight_utils.maybe_remap_kv_scale_name"


def _remap_scales(self: Any, weights: Iterable[tuple[str, Any]]):
    """BEFORE load_weights: rename the scales."""
    return (self, _remapped(weights, dict(self.named_parameters()))), {}


def _remapped(
    weights: Iterable[tuple[str, Any]], parameters: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    from sglang.srt.model_loader.weight_utils import maybe_remap_kv_scale_name

    for name, tensor in weights:
        if name.endswith((".k_scale", ".v_scale")):
            renamed = maybe_remap_kv_scale_name(re.sub(r"^model\.", "", name), parameters)
            if renamed is None:
                continue
            name = f"model.{renamed}"
        yield name, tensor


def _stands_down(ctx: Context) -> str | None:
    if ctx.model is None or ctx.model.architecture == UNIFIED.rpartition(".")[2]:
        return None
    return "the checkpoint is not of the unified family"


def _retired() -> bool:
    from sglang.srt.models.gemma4_unified import Gemma4UnifiedForConditionalGeneration as Unified

    return "maybe_remap_kv_scale_name" in inspect.getsource(inspect.unwrap(Unified.load_weights))


PATCH = Patch(
    name="unified_kv_scales",
    theme="checkpoints",
    summary="12B: FP8 KV-cache scales of a checkpoint are loaded",
    why=(
        "load_weights of the unified class does not rename k_scale and v_scale as its parent "
        "does; they are silently dropped, and FP8 keys and values are stored with a scale of 1"
    ),
    upstream="unreported",
    retire_when="the unified class's load_weights calls maybe_remap_kv_scale_name",
    retired=_retired,
    hooks=(Hook(f"{UNIFIED}.load_weights", "c1d20b19b01e", "before", _remap_scales),),
    relies_on=(Source(REMAP, "8b2aa9a2d90c"),),
    stands_down=_stands_down,
)
