# SPDX-License-Identifier: Apache-2.0
"""Gather rows of a table that a GPU reads in host memory."""

from __future__ import annotations

import pytest
import torch

from sglang_gemma4_ext.kernels.host_rows import BLOCK, host_rows
from tests.kernels.poison import poison_allocations


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch) -> None:
    poison_allocations(monkeypatch)


@pytest.mark.parametrize("width", [1, 16, 100, BLOCK, BLOCK + 8, 8960])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_rows_are_copied_bit_by_bit(width, dtype, device) -> None:
    draw = torch.Generator().manual_seed(width)
    table = torch.randn(37, width, generator=draw).to(dtype)
    table[3, 0] = torch.nan
    host = table.pin_memory() if device == "cuda" else table.to(device)
    for ids in ([3, 0, 36, 3], [[5], [9]], []):
        chosen = torch.tensor(ids, dtype=torch.int64, device=device)
        got = host_rows(host, chosen).cpu()
        assert got.shape == (*chosen.shape, width)
        want = table[chosen.cpu()]
        assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))


def test_int32_ids(device) -> None:
    table = torch.arange(12.0).view(4, 3).to(device)
    ids = torch.tensor([2, 1], dtype=torch.int32, device=device)
    assert host_rows(table, ids).tolist() == [[6.0, 7.0, 8.0], [3.0, 4.0, 5.0]]


@pytest.mark.interpreter  # on a GPU or in the emulator the table would be copied
def test_a_row_beyond_four_gigabytes_is_found() -> None:
    """The table of E4B has 5.6e9 bytes, so addresses are 64 bits wide."""
    table = torch.zeros(33 << 17, 1 << 10, dtype=torch.uint8)  # pages that nothing touches
    table[-1, -3:] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    assert host_rows(table, torch.tensor([(33 << 17) - 1]))[0, -3:].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("table", "ids", "match"),
    [
        (torch.ones(4, 4)[:, ::2], torch.tensor([0]), "table must be contiguous"),
        (torch.ones(4), torch.tensor([0]), "table must be contiguous"),
        (torch.ones(4, 4), torch.tensor([0.0]), "ids must be integers"),
        (torch.ones(4, 4), torch.tensor([0, 1, 2, 3])[::2], "ids must be contiguous"),
        (torch.ones(4, 4), torch.empty(1, dtype=torch.int64, device="meta"), "must be pinned"),
    ],
)
def test_refusals(table, ids, match) -> None:
    with pytest.raises(ValueError, match=match):
        host_rows(table, ids)
