# SPDX-License-Identifier: Apache-2.0
"""Read a `Gemma4ForCausalLM` checkpoint, as transformers 5.19 saves it, like any other.

Such a checkpoint has the text configuration at the top level (model_type `gemma4_text`). SGLang
flattens the two attention shapes of Gemma 4 only within a `text_config`. Its parser reads
`num_key_value_heads`, which transformers refuses to return while shapes differ by layer.
"""

from __future__ import annotations

import types
from typing import Any

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

COMMON = "sglang.srt.utils.hf_transformers.common"
CONFIG = "sglang.srt.utils.hf_transformers.config"


def _flatten(text_config: Any, config: Any) -> None:
    """AFTER get_hf_text_config: the first call on a fresh config, before anything reads it."""
    is_top_level = text_config is config
    if not is_top_level or getattr(config, "model_type", None) != "gemma4_text":
        return
    if hasattr(config, "swa_head_dim"):
        return
    from sglang.srt.utils.hf_transformers.config import _apply_gemma4_attention_overrides

    # Upstream's own function, given the shape that it expects: an object with a text_config.
    _apply_gemma4_attention_overrides(types.SimpleNamespace(text_config=config))


def _retired() -> bool:
    from sglang.srt.utils.hf_transformers.config import _GEMMA4_MODEL_TYPES

    return "gemma4_text" in _GEMMA4_MODEL_TYPES


def _stands_down(ctx: Context) -> str | None:
    if ctx.model is None or ctx.model.config.get("model_type") == "gemma4_text":
        return None
    return "the checkpoint's text configuration is nested, which SGLang reads by itself"


PATCH = Patch(
    name="causal_lm_config",
    theme="checkpoints",
    summary="Text-only checkpoints saved by transformers (`Gemma4ForCausalLM`) load",
    why="the config parser flattens per-layer attention shapes only inside a text_config, and "
    "stops with AmbiguousGlobalPerLayerAttributeError on a top-level one",
    upstream="unreported",
    retire_when="_GEMMA4_MODEL_TYPES names gemma4_text",
    retired=_retired,
    hooks=(Hook(f"{COMMON}.get_hf_text_config", "cc6c0d35b876", "after", _flatten),),
    relies_on=(
        Source(f"{CONFIG}._apply_gemma4_attention_overrides", "d0d3b6d3b55b"),
        Source(f"{CONFIG}.HfModelConfigParser.parse", "178843edf3c9"),
    ),
    stands_down=_stands_down,
)
