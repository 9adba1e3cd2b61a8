# SPDX-License-Identifier: Apache-2.0
"""What a kernel's host function asks of its arguments; it asks on every call, so a refusal's
sentence is put together only when there is one.
"""

from __future__ import annotations

import torch


def require(condition: bool, message: str, *values: object) -> None:
    """Raise ValueError(message % values) unless the condition holds; shapes appear as tuples."""
    if not condition:
        raise ValueError(
            message % tuple(tuple(v) if isinstance(v, torch.Size) else v for v in values)
        )
