# SPDX-License-Identifier: Apache-2.0
"""Check arguments of a kernel's host function; a message is formatted only when a check fails."""

from __future__ import annotations

import torch


def require(condition: bool, message: str, *values: object) -> None:
    """Raise ValueError(message % values) unless the condition holds; shapes appear as tuples."""
    if not condition:
        raise ValueError(
            message % tuple(tuple(v) if isinstance(v, torch.Size) else v for v in values)
        )
