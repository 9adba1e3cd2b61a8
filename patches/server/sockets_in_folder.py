# SPDX-License-Identifier: Apache-2.0
"""Put the sockets of a server into one folder, which is removed when the server ends."""

from __future__ import annotations

from sglang_gemma4_ext import run_folder
from sglang_gemma4_ext.patches.server._where import unlaunched
from sglang_gemma4_ext.registry import Hook, Patch

PATCH = Patch(
    name="sockets_in_folder",
    theme="server",
    summary="The sockets of a server are in one folder, which goes when the server ends",
    why="SGLang leaves its sockets in the temporary folder and its segments in /dev/shm",
    upstream="unreported",
    retire_when="SGLang removes its sockets and its shared memory when a server ends",
    retired=lambda: False,
    hooks=(
        Hook(
            "sglang.srt.server_args.PortArgs.init_new",
            "11dd32c6aadd",
            "around",
            run_folder.around_port_args,
        ),
    ),
    stands_down=unlaunched,
    every_model=True,
)
