# SPDX-License-Identifier: Apache-2.0
"""Check the position of an MTP draft's query, and how far it sees."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import torch
from sglang.srt.speculative.frozen_kv_mtp_utils import set_frozen_kv_positions

from sglang_gemma4_ext.patches.drafts import draft_position
from tests.patches.hooks import hook_of


def test_the_query_position_follows_the_cached_keys():
    """Put the query at L where positions 0 to L - 1 are cached."""
    batch = SimpleNamespace(seq_lens=torch.tensor([5, 1, 300]), positions=None)
    inspect.unwrap(set_frozen_kv_positions)(batch, 1)
    hook_of(draft_position.PATCH, "after", "_set_positions")(None, None, batch)
    assert batch.positions.tolist() == [5, 1, 300]


def test_the_window_is_counted_from_the_last_cached_key():
    window = hook_of(draft_position.PATCH, "after", "get_attention_sliding_window_size")
    assert window(1023, None) == 1022


def test_only_sliding_layers_get_that_window():
    attention = [SimpleNamespace(sliding_window_size=size) for size in (1023, -1, None)]
    layers = [SimpleNamespace(self_attn=SimpleNamespace(attn=a)) for a in attention]
    assistant = SimpleNamespace(
        model=SimpleNamespace(layers=layers), get_attention_sliding_window_size=lambda: 1022
    )
    hook_of(draft_position.PATCH, "after", "bind_frozen_kv_context")(None, assistant)
    assert [a.sliding_window_size for a in attention] == [1022, -1, None]
