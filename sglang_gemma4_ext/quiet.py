# SPDX-License-Identifier: Apache-2.0
"""Move two kinds of SGLang's log lines to debug level: our own hooks, and all server arguments.

`--log-level debug` shows them. A server of another model under SGLang's own command keeps its log.
"""

from __future__ import annotations

import logging


class _ToDebug(logging.Filter):
    """Demote the records whose text holds `mark`, and drop them unless debug is on."""

    def __init__(self, mark: str):
        super().__init__()
        self.mark = mark

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.INFO or self.mark not in record.getMessage():
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger().isEnabledFor(logging.DEBUG)


_FILTERS = {
    "sglang.srt.plugins.hook_registry": _ToDebug("plugin=gemma4_ext"),
    "sglang.srt.entrypoints.engine": _ToDebug("server_args="),
}


def quiet() -> None:
    """Add the filters to SGLang's loggers in this process; adding them again changes nothing."""
    for name, demote in _FILTERS.items():
        logging.getLogger(name).addFilter(demote)
