# SPDX-License-Identifier: Apache-2.0
"""Read from a checkpoint's chat template what it can do."""

from __future__ import annotations

from typing import Any

# Google published the template that knows `preserve_thinking` on this day.
CURRENT = "2026-07-15"
OUTDATED = (
    f"the chat template of this checkpoint is older than Google's of {CURRENT}: after a tool's "
    "result it opens no thought, it drops the thoughts of a final answer, and null arguments "
    "become None. Download the model's current chat_template.jinja, or give it with "
    "--chat-template"
)


def declares_tools(template: Any) -> bool:
    """Tell whether a chat template writes Gemma 4's tool declarations and calls."""
    return isinstance(template, str) and "<|tool>" in template and "<|tool_call>" in template


def is_outdated(template: Any) -> bool:
    """Tell whether a template with tools is older than Google's of 2026-07-15."""
    return declares_tools(template) and "preserve_thinking" not in template
