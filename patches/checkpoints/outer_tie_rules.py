# SPDX-License-Identifier: Apache-2.0
"""Tie lm_head to the embedding as config.json's top-level `tie_word_embeddings` says.

transformers reads the top level. SGLang's multimodal classes read the text configuration, which
defaults to tied. They then silently drop a checkpoint's own lm_head.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.checkpoint.model_family import MULTIMODAL_ARCHITECTURES
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

CONFIG = "sglang.srt.utils.hf_transformers.config"


def _copy_tie(result: None, config: Any) -> None:
    """AFTER _apply_gemma4_attention_overrides, the parser's last change of the config."""
    tied = getattr(config, "tie_word_embeddings", None)
    if tied is not None:
        config.text_config.tie_word_embeddings = tied


def _stands_down(ctx: Context) -> str | None:
    if ctx.model is None or ctx.model.architecture in MULTIMODAL_ARCHITECTURES:
        return None
    return "the checkpoint's text configuration is the top level"


def _retired() -> bool:
    from sglang.srt.models.gemma4_mm import Gemma4ForConditionalGeneration as Gemma4

    return 'getattr(text_config, "tie_word_embeddings"' not in inspect.getsource(Gemma4)


PATCH = Patch(
    name="outer_tie_rules",
    theme="checkpoints",
    summary="An lm_head of its own is used where the top level of config.json says untied",
    why=(
        "the multimodal classes read tie_word_embeddings only from text_config; with an lm_head "
        "in the checkpoint and tie_word_embeddings false at the top level, answers are silently "
        "wrong"
    ),
    upstream="unreported",
    retire_when="the Gemma 4 classes read tie_word_embeddings from the top level",
    retired=_retired,
    hooks=(
        Hook(f"{CONFIG}._apply_gemma4_attention_overrides", "d0d3b6d3b55b", "after", _copy_tie),
    ),
    relies_on=(Source(f"{CONFIG}.HfModelConfigParser.parse", "178843edf3c9"),),
    stands_down=_stands_down,
)
