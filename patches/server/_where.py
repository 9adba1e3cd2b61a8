# SPDX-License-Identifier: Apache-2.0
"""Say where the patches of a server's life apply: under the launcher, in the main process."""

from __future__ import annotations

import multiprocessing

from sglang_gemma4_ext.context import Context


def unlaunched(ctx: Context) -> str | None:
    """Return why a patch of the launcher is not needed in this process, or None."""
    return None if ctx.settings.launched else "the server was started without our launcher"


def in_child(ctx: Context) -> str | None:
    """Return why a patch of the main process is not needed in this process, or None."""
    return "for the main process" if multiprocessing.parent_process() is not None else None
