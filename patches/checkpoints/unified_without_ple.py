# SPDX-License-Identifier: Apache-2.0
"""Build no per-layer embeddings for a `gemma4_unified` checkpoint (12B) without them.

SGLang reads this family's text configuration with the class of the other Gemma 4 models, where
`hidden_size_per_layer_input` defaults to 256. transformers' own class for the family has no such
field, so a checkpoint that it saved does not state it. SGLang then builds embeddings that no
checkpoint fills, and answers from uninitialized memory.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

CONFIG = "sglang.srt.utils.hf_transformers.config"


def _without_ple(result: None, config: Any) -> None:
    """AFTER _apply_gemma4_attention_overrides, the parser's last change of the config."""
    if getattr(config, "model_type", None) == "gemma4_unified":
        config.text_config.hidden_size_per_layer_input = 0


def _stands_down(ctx: Context) -> str | None:
    if ctx.model is None or ctx.model.config.get("model_type") == "gemma4_unified":
        return None
    return "the checkpoint is not of the gemma4_unified family"


def _retired() -> bool:
    from sglang.srt.utils.hf_transformers import common

    source = inspect.getsource(common._CONFIG_REGISTRY["gemma4_unified"])
    return "hidden_size_per_layer_input" in source


PATCH = Patch(
    name="unified_without_ple",
    theme="checkpoints",
    summary="12B checkpoints saved by transformers load without phantom per-layer embeddings",
    why="the config class that SGLang substitutes for gemma4_unified defaults to embeddings of "
    "width 256 where the checkpoint states none; the weights stay uninitialized",
    upstream="unreported",
    retire_when="SGLang's gemma4_unified configuration says hidden_size_per_layer_input = 0",
    retired=_retired,
    hooks=(
        Hook(f"{CONFIG}._apply_gemma4_attention_overrides", "d0d3b6d3b55b", "after", _without_ple),
    ),
    relies_on=(Source(f"{CONFIG}.HfModelConfigParser.parse", "178843edf3c9"),),
    stands_down=_stands_down,
)
