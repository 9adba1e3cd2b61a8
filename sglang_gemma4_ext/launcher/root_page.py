# SPDX-License-Identifier: Apache-2.0
"""Say at the server's address where the API is, and how to open a chat page."""

from __future__ import annotations

from typing import Any

# SGLang's function for `/`, which answers "SGLang is running".
ROOT = "sglang_root"


def chat_page_command(url: str) -> str:
    return f"python -m sglang_gemma4_ext.chat_page --server {url}"


def describe_at_root(app: Any, url: str) -> None:
    """Have `/` name the API and the chat page. Another answer than SGLang's own stays."""
    for route in app.routes:
        if getattr(getattr(route, "endpoint", None), "__name__", "") == ROOT:
            route.dependant.call = _say(
                f"SGLang is running. OpenAI API: {url}/v1. Chat page: {chat_page_command(url)}"
            )


def _say(text: str) -> Any:
    async def root() -> str:
        return text

    return root
