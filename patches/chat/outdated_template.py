# SPDX-License-Identifier: Apache-2.0
"""Log one line at start-up if a chat template is older than Google's of 2026-07-15."""

from __future__ import annotations

import inspect
import logging
from typing import Any

from sglang_gemma4_ext import PREFIX
from sglang_gemma4_ext.chat.template import OUTDATED, is_outdated
from sglang_gemma4_ext.registry import Hook, Patch

logger = logging.getLogger(__name__)

LOAD = "sglang.srt.parser.template_manager.TemplateManager.load_chat_template"


def _warn(result: None, self: Any, tokenizer_manager: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER load_chat_template, which a server calls once."""
    template = getattr(tokenizer_manager.tokenizer, "chat_template", None)
    if self.chat_template_name is None and is_outdated(template):
        logger.warning("%s%s", PREFIX, OUTDATED)


def _retired() -> bool:
    from sglang.srt.parser.template_manager import TemplateManager

    return "preserve_thinking" in inspect.getsource(
        inspect.unwrap(TemplateManager.load_chat_template)
    )


PATCH = Patch(
    name="outdated_template",
    theme="chat",
    summary="A chat template older than Google's of 2026-07-15 is named once at start-up",
    why=(
        "early checkpoints keep the template that they were published with; agents fail with it, "
        "without a reason"
    ),
    upstream="unreported",
    retire_when="TemplateManager.load_chat_template looks for preserve_thinking",
    retired=_retired,
    hooks=(Hook(LOAD, "59839dd84bf5", "after", _warn),),
    required=False,
)
