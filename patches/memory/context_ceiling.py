# SPDX-License-Identifier: Apache-2.0
"""Cut a context length above the model's own maximum, from every source.

SGLang derives the model's maximum and the context in one method. A longer context is an error
there, or is granted under SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN and in CI. Gemma 4 writes wrong
text at positions that it was never trained on, and their rows cost memory. Therefore the context is
cut here, once, with a log line. Drafts are left alone: they use the target's context.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

from sglang_gemma4_ext.checkpoint.model_family import TARGET_ARCHITECTURES
from sglang_gemma4_ext.registry import Hook, Patch

logger = logging.getLogger(__name__)

DERIVE = "sglang.srt.configs.model_config.ModelConfig._derive_context_length"


def _cut(self: Any, context_length: int | None):
    """BEFORE _derive_context_length: cut the context to the model's own maximum."""
    from sglang.srt.utils.hf_transformers_utils import get_context_length

    architectures = self.hf_config.architectures or ()
    if context_length is None or not TARGET_ARCHITECTURES.intersection(architectures):
        return None
    most = get_context_length(self.hf_text_config)
    if self.is_draft_model or context_length <= most:
        return None
    logger.warning("context_length %d is cut to the model's own %d", context_length, most)
    return (self, most), {}


def _retired() -> bool:
    from sglang.srt.configs.model_config import ModelConfig

    source = inspect.getsource(inspect.unwrap(ModelConfig._derive_context_length))
    return "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN" not in source


PATCH = Patch(
    name="context_ceiling",
    theme="memory",
    summary="A context length above the model's own is cut to it",
    why="SGLang stops at a longer --context-length, and under "
    "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN serves positions that the model never saw",
    upstream="unreported",
    retire_when="_derive_context_length no longer lets an environment variable raise the maximum",
    retired=_retired,
    hooks=(Hook(DERIVE, "781b45caa9cd", "before", _cut),),
)
