# SPDX-License-Identifier: Apache-2.0
"""What the CPU reference adds for speculative decoding, apart from a server."""

from __future__ import annotations

import torch

from sglang_gemma4_ext.cpu_reference.speculative import extend_cache_locs
from sglang_gemma4_ext.settings import Settings


def test_cache_slots_of_spans_of_unequal_length():
    table = torch.arange(40, dtype=torch.int32).view(4, 10)
    slots = extend_cache_locs(
        req_pool_indices=torch.tensor([3, 1]),
        req_to_token=table,
        start_offset=torch.tensor([2, 5]),
        end_offset=torch.tensor([4, 8]),
        batch_size=2,
        draft_token_num=3,
        device="cpu",
    )
    assert slots.dtype == torch.int64
    assert slots.tolist() == [32, 33, 15, 16, 17, 0]


def test_drafts_need_the_interpreter_whatever_attention_is():
    for speculative, expected in ((False, None), (True, "1")):
        env: dict[str, str] = {}
        Settings(cpu=True).export(env, speculative=speculative)
        assert env.get("TRITON_INTERPRET") == expected
    env = {}
    Settings().export(env, speculative=True)
    assert "TRITON_INTERPRET" not in env
