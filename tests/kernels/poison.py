# SPDX-License-Identifier: Apache-2.0
"""Fill what a kernel's host function allocates with NaN, so that unwritten bytes show."""

from __future__ import annotations

import pytest
import torch


def poison_allocations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch torch.empty: floating point is NaN, integers are -77 (179 as uint8)."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else -77)

    monkeypatch.setattr(torch, "empty", poisoned)
