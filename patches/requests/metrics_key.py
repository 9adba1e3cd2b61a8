# SPDX-License-Identifier: Apache-2.0
"""Require the API key for /metrics if one is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch

DECIDE = "sglang.srt.utils.auth.decide_request_auth"


def _guard_metrics(original: Callable[..., Any], *, path: str, **request: Any) -> Any:
    """AROUND decide_request_auth: judge /metrics as any endpoint but a health check."""
    return original(path="/" if path.startswith("/metrics") else path, **request)


def _retired() -> bool:
    from sglang.srt.utils.auth import AuthLevel, decide_request_auth

    decision = decide_request_auth(
        method="GET",
        path="/metrics",
        authorization_header=None,
        api_key="key",
        admin_api_key=None,
        auth_level=AuthLevel.NORMAL,
    )
    return not decision.allowed


PATCH = Patch(
    name="metrics_key",
    theme="requests",
    summary="/metrics needs the API key where --api-key is set",
    why="SGLang answers /metrics without a key; metrics tell who uses the server and how much",
    upstream="by design: scraping without secrets; give Prometheus the key, or disable this patch",
    retire_when="decide_request_auth refuses /metrics without the key",
    retired=_retired,
    hooks=(Hook(DECIDE, "ba9f3a6b2d1c", "around", _guard_metrics),),
    required=False,
)
