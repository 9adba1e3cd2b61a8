# SPDX-License-Identifier: Apache-2.0
"""End a running server that loses a child with one sentence."""

from __future__ import annotations

from sglang_gemma4_ext import shutdown
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.patches.server._where import in_child, unlaunched
from sglang_gemma4_ext.registry import Hook, Patch


def _stands_down(ctx: Context) -> str | None:
    return unlaunched(ctx) or in_child(ctx)


PATCH = Patch(
    name="reason_at_end",
    theme="server",
    summary="A running server that loses a child ends with one sentence, and nothing is left",
    why="SGLang's handler kills the process tree without a reason; a launch handler has a seam",
    upstream="unreported",
    retire_when="ServerArgs.custom_sigquit_handler also holds after the warm-up",
    retired=lambda: False,
    hooks=(
        Hook(
            "sglang.srt.managers.tokenizer_manager.SignalHandler.running_phase_sigquit_handler",
            "3cda3b761b13",
            "replace",
            shutdown.in_place_of_running_sigquit,
        ),
    ),
    stands_down=_stands_down,
    every_model=True,
)
