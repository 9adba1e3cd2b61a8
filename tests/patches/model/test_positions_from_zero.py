# SPDX-License-Identifier: Apache-2.0
"""Check the positions that the rotary embedding gets and the caller's buffer afterwards."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.patches.model.positions_from_zero import PATCH
from tests.patches.hooks import hook_of

one_lower = hook_of(PATCH, "around", "forward")


@pytest.fixture
def served(monkeypatch):
    """served(positions): what SGLang's patched forward passes to the language model."""
    from sglang.srt.models import gemma4_mm

    seen = []

    def embed(*args, positions, **kwargs):
        seen.append(positions.clone())

    monkeypatch.setattr(gemma4_mm, "general_mm_embed_routine", embed)
    rank = SimpleNamespace(is_first_rank=False, is_last_rank=False)
    model = SimpleNamespace(
        pp_group=rank,
        language_model=None,
        get_image_feature=None,
        get_video_feature=None,
        get_audio_feature=None,
    )
    batch = SimpleNamespace(forward_mode=None)

    def forward(positions: torch.Tensor) -> torch.Tensor:
        stock = gemma4_mm.Gemma4ForConditionalGeneration.forward
        one_lower(stock, model, None, positions, batch)
        return seen[-1]

    return forward


@pytest.mark.parametrize("out_of_place", ["0", "1"])
def test_positions_equal_the_callers(served, monkeypatch, out_of_place):
    """Cover both ways in which SGLang adds 1; a replayed graph and an eager chunk agree."""
    monkeypatch.setenv("SGLANG_GEMMA_OUT_OF_PLACE_POSITION_MUTATION", out_of_place)
    buffer = torch.tensor([0, 1, 2, 4095, 0])
    assert served(buffer).tolist() == [0, 1, 2, 4095, 0]
    assert buffer.tolist() == [0, 1, 2, 4095, 0]
