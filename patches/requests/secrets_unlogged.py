# SPDX-License-Identifier: Apache-2.0
"""Keep API keys and passwords out of the log line that lists all server arguments."""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch

LOGGED = "sglang.srt.entrypoints.engine._server_args_for_logging"
SECRETS = ("api_key", "admin_api_key", "ssl_keyfile_password")


def _redact(result: dict[str, Any], server_args: Any) -> dict[str, Any]:
    """AFTER _server_args_for_logging: redact the copy of the arguments that is logged."""
    hidden = {name: "<redacted>" for name in SECRETS if result.get(name) is not None}
    return {**result, **hidden}


def _retired() -> bool:
    from sglang.srt.entrypoints import engine

    return "api_key" in inspect.getsource(inspect.unwrap(engine._server_args_for_logging))


PATCH = Patch(
    name="secrets_unlogged",
    theme="requests",
    summary="--api-key, --admin-api-key and --ssl-keyfile-password are not written to the log",
    why="SGLang logs all its arguments at the start and hides only its watermark's key",
    upstream="unreported",
    retire_when="_server_args_for_logging leaves out api_key",
    retired=_retired,
    hooks=(Hook(LOGGED, "3b86699d2a82", "after", _redact),),
    required=False,
)
