# SPDX-License-Identifier: Apache-2.0
"""Print a summary and one request to paste when a server is ready, under both commands."""

from __future__ import annotations

from sglang_gemma4_ext.launcher import summary
from sglang_gemma4_ext.patches.server._where import in_child
from sglang_gemma4_ext.registry import Hook, Patch

PATCH = Patch(
    name="summary_at_ready",
    theme="server",
    summary="A server that is ready prints what runs where, and one request to paste",
    why="SGLang's last line has neither an address nor the patches; launch_callback is the seam",
    upstream="none: the text is about this package",
    retire_when="never: it goes with this package",
    retired=lambda: False,
    hooks=(
        Hook(
            "sglang.srt.entrypoints.http_server.launch_server",
            "92fe88cd0c03",
            "before",
            summary.announce_when_ready,
        ),
    ),
    stands_down=in_child,
    every_model=True,
)
