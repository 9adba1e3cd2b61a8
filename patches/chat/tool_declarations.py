# SPDX-License-Identifier: Apache-2.0
"""Fold tool schemas that Gemma 4's chat template cannot declare into what it can.

The template knows neither unions nor references and declares only enums of strings. For a missing
description it writes the word None.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.chat.declarations import declarable_tools
from sglang_gemma4_ext.chat.template import declares_tools
from sglang_gemma4_ext.registry import Hook, Patch

SERVING = "sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat"


def _fold(
    self: Any, messages: list[dict[str, Any]], *, tools: Any, **kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """BEFORE _render_and_encode_chat_template, the one place where tools become a prompt."""
    if not tools or not declares_tools(self.tokenizer_manager.tokenizer.chat_template):
        return None
    return (self, messages), {"tools": declarable_tools(tools), **kwargs}


def _retired() -> bool:
    from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat

    render = inspect.unwrap(OpenAIServingChat._render_and_encode_chat_template)
    return "anyOf" in inspect.getsource(render)


PATCH = Patch(
    name="tool_declarations",
    theme="chat",
    summary="anyOf, $ref, nullable types, enums of numbers and missing descriptions are declared",
    why=(
        "the chat template drops anyOf, $ref, type lists and enums of numbers; it writes None for "
        "a missing description, and fails on a bare object with additionalProperties"
    ),
    upstream="unreported; the template is Google's",
    retire_when="OpenAIServingChat folds anyOf before it renders the chat template",
    retired=_retired,
    hooks=(Hook(f"{SERVING}._render_and_encode_chat_template", "149e2e4ae257", "before", _fold),),
    required=False,
)
