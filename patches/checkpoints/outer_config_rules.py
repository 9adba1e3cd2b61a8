# SPDX-License-Identifier: Apache-2.0
"""Read from the top level of config.json what transformers reads there.

transformers reads `tie_word_embeddings` and `dtype` from the top level, and ends of generation from
the text configuration where the top level has none. SGLang's multimodal classes read the first two
from the text configuration, and the third from the top level alone.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch, Source

CONFIG = "sglang.srt.utils.hf_transformers.config"
MODEL_CONFIG = "sglang.srt.configs.model_config"


def _copy_fields(result: None, config: Any) -> None:
    """AFTER _apply_gemma4_attention_overrides, the parser's last step with the config."""
    text = config.text_config
    for name in ("tie_word_embeddings", "dtype"):
        value = getattr(config, name, None)
        if value is not None:
            setattr(text, name, value)
    if getattr(config, "eos_token_id", None) is None:
        config.eos_token_id = getattr(text, "eos_token_id", None)


def _retired() -> bool:
    from sglang.srt.models.gemma4_mm import Gemma4ForConditionalGeneration as Gemma4

    return 'getattr(text_config, "tie_word_embeddings"' not in inspect.getsource(Gemma4)


PATCH = Patch(
    name="outer_config_rules",
    theme="checkpoints",
    summary="The top level of config.json decides the tie of lm_head, the dtype, and the ends",
    why="the multimodal classes read tie_word_embeddings and dtype from text_config alone; with a "
    "physical lm_head and tie_word_embeddings false at the top level, answers are silently wrong",
    upstream="unreported",
    retire_when="the Gemma 4 classes read tie_word_embeddings from the top level",
    retired=_retired,
    hooks=(
        Hook(f"{CONFIG}._apply_gemma4_attention_overrides", "d0d3b6d3b55b", "after", _copy_fields),
    ),
    relies_on=(
        Source(f"{CONFIG}.HfModelConfigParser.parse", "178843edf3c9"),
        Source(f"{MODEL_CONFIG}._get_and_verify_dtype", "8a70d8601093"),
        Source(f"{MODEL_CONFIG}.ModelConfig._get_hf_eos_token_id", "da5621ae3c7a"),
    ),
)
