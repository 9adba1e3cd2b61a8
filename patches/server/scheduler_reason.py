# SPDX-License-Identifier: Apache-2.0
"""Record why a scheduler failed, for the launcher's last line."""

from __future__ import annotations

from sglang_gemma4_ext import shutdown
from sglang_gemma4_ext.patches.server._where import unlaunched
from sglang_gemma4_ext.registry import Hook, Patch

PATCH = Patch(
    name="scheduler_reason",
    theme="server",
    summary="A scheduler that fails leaves its reason for the launcher's last line",
    why="SGLang's scheduler logs a traceback and signals its parent without a reason",
    upstream="unreported",
    retire_when="SGLang's launcher is told why a scheduler failed",
    retired=lambda: False,
    hooks=(
        Hook(
            "sglang.srt.managers.scheduler.Scheduler.__init__",
            "a4a5297acc17",
            "around",
            shutdown.around_scheduler_init,
        ),
    ),
    stands_down=unlaunched,
    every_model=True,
)
