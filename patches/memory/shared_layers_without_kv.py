# SPDX-License-Identifier: Apache-2.0
"""Give no KV rows to layers that attend to another layer's KV.

The last layers of E2B (20 of 35) and E4B (18 of 42) share the KV of an earlier layer. SGLang's
attention reads and writes that earlier layer's rows (`layer_id=kv_shared_layer_index`), but its
pools are built for all layers: 57 % and 43 % of the KV memory is never touched.

The two pools map layer ids to rows. Layers that are left out of the lists get no rows.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.checkpoint.model_family import TARGET_ARCHITECTURES
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

LAYER_IDS = "sglang.srt.configs.model_config.get_hybrid_layer_ids"

LayerIds = tuple[list[int] | None, list[int] | None]


def _owners_only(result: LayerIds, architectures: list[str], text_config: Any) -> LayerIds:
    """AFTER get_hybrid_layer_ids: (sliding, full) ids of the layers that own KV."""
    if not TARGET_ARCHITECTURES.intersection(architectures):
        return result
    shared = getattr(text_config, "num_kv_shared_layers", 0) or 0
    owners = text_config.num_hidden_layers - shared
    sliding, full = ([i for i in ids or () if i < owners] for ids in result)
    return sliding, full


def _stands_down(ctx: Context) -> str | None:
    if ctx.model is None or ctx.model.text.get("num_kv_shared_layers"):
        return None
    return "every layer of this model owns its KV"


def _retired() -> bool:
    from sglang.srt.configs import model_config

    source = inspect.getsource(inspect.unwrap(model_config.get_hybrid_layer_ids))
    return "num_kv_shared_layers" in source


PATCH = Patch(
    name="shared_layers_without_kv",
    theme="memory",
    summary="KV pools hold no rows for layers that share another layer's KV (E2B, E4B)",
    why=(
        "get_hybrid_layer_ids lists all layers; the pools of E2B and E4B hold rows for 20 of 35 "
        "and 18 of 42 layers that never use them"
    ),
    upstream="unreported",
    retire_when="get_hybrid_layer_ids leaves out the last num_kv_shared_layers layers",
    retired=_retired,
    hooks=(Hook(LAYER_IDS, "bbdef17d0509", "after", _owners_only),),
    relies_on=(
        Source("sglang.srt.models.gemma4_causal.Gemma4Attention.__init__", "e521bdf06501"),
        Source("sglang.srt.mem_cache.swa_memory_pool.SWAKVPool.__init__", "498da23ea3b4"),
        Source(
            "sglang.srt.mem_cache.unified_memory_pool.UnifiedSWAKVPool.__init__", "72efb3f33ba4"
        ),
    ),
    stands_down=_stands_down,
)
