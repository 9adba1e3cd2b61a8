# SPDX-License-Identifier: Apache-2.0
"""The line of the log that lists all server arguments leaves out API keys and passwords."""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch

LOGGED = "sglang.srt.entrypoints.engine._server_args_for_logging"
SECRETS = ("api_key", "admin_api_key", "ssl_keyfile_password")


def _redact(result: dict[str, Any], server_args: Any) -> dict[str, Any]:
    """AFTER _server_args_for_logging: what is logged, which is a copy of the arguments."""
    hidden = {name: "<redacted>" for name in SECRETS if result.get(name) is not None}
    return {**result, **hidden}


def _retired() -> bool:
    from sglang.srt.entrypoints import engine

    return "api_key" in inspect.getsource(inspect.unwrap(engine._server_args_for_logging))


PATCH = Patch(
    name="secrets_unlogged",
    theme="requests",
    summary="--api-key, --admin-api-key and --ssl-keyfile-password are not written to the log",
    why="SGLang logs all its arguments at the start, and hides none but its watermark's key",
    upstream="unreported",
    retire_when="_server_args_for_logging leaves out api_key",
    retired=_retired,
    hooks=(Hook(LOGGED, "3b86699d2a82", "after", _redact),),
    required=False,
)
