# SPDX-License-Identifier: Apache-2.0
"""Let a command end without a traceback where its reader has gone, as in `plan | head`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


def run(main: Callable[[], int]) -> int:
    """Run a command and return its status; 141 if nobody reads its output, as in a shell."""
    try:
        try:
            return main()
        finally:  # argparse leaves by SystemExit
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
