# SPDX-License-Identifier: Apache-2.0
"""Ask for pinned memory on a machine without a driver."""

from __future__ import annotations

import pytest
import torch

from sglang_gemma4_ext.patches.cpu.cpu_lora import PATCH
from tests.patches.hooks import hook_of


@pytest.mark.parametrize("name", ["init_state", "_load_lora_adapter", "prepare_lora_batch"])
def test_pinned_memory_is_plain_memory(name: str) -> None:
    hook, before = hook_of(PATCH, "around", name), (torch.tensor, torch.zeros)
    pin = torch.Tensor.pin_memory

    def upstream(value: int, *, size: int) -> torch.Tensor:
        made = torch.tensor([value], dtype=torch.int32, pin_memory=True)
        return torch.cat([made, torch.zeros(size, dtype=torch.int32, pin_memory=True)]).pin_memory()

    assert hook(upstream, 3, size=2).tolist() == [3, 0, 0]
    with pytest.raises(ZeroDivisionError):
        hook(lambda: 1 / 0)
    assert (torch.tensor, torch.zeros) == before
    assert torch.Tensor.pin_memory is pin
