# SPDX-License-Identifier: Apache-2.0
"""What a kernel's host function allocates is full of NaN first: a byte left unwritten shows."""

from __future__ import annotations

import pytest
import torch


def poison_allocations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floating point becomes NaN, integers -77, which as uint8 is 179."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else -77)

    monkeypatch.setattr(torch, "empty", poisoned)
