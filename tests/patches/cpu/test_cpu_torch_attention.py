# SPDX-License-Identifier: Apache-2.0
"""Test torch_native attention on pools whose sliding slots differ from their full slots."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool

from sglang_gemma4_ext.patches.cpu import cpu_torch_attention
from tests.patches.hooks import hook_of

SLOTS, LENGTH, WINDOW, HEADS, DIM = 40, 20, 8, 2, 16
FULL, SLIDING = 0, 1


class Pool(SWAKVPool):
    """Hold keys and values by slot; sliding layers use the full slots in reverse order."""

    def __init__(self):
        self.layers_mapping = {FULL: (0, False), SLIDING: (0, True)}
        draw = torch.Generator().manual_seed(0)
        self.kv = torch.randn(2, SLOTS, HEADS, DIM, generator=draw)

    def translate_loc_from_full_to_swa(self, slots: torch.Tensor) -> torch.Tensor:
        return SLOTS - 1 - slots

    def get_key_buffer(self, layer_id: int) -> torch.Tensor:
        return self.kv[0]

    def get_value_buffer(self, layer_id: int) -> torch.Tensor:
        return self.kv[1]


@pytest.mark.parametrize("layer_id", [FULL, SLIDING])
@pytest.mark.parametrize("queries", [1, 5])
def test_each_layer_reads_keys_from_its_own_slots(layer_id, queries):
    slots = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(1))[:LENGTH]
    pool = Pool()
    table = SimpleNamespace(req_to_token=slots[None])
    backend = SimpleNamespace(token_to_kv_pool=pool, req_to_token_pool=table)
    layer = SimpleNamespace(
        layer_id=layer_id,
        sliding_window_size=WINDOW - 1 if layer_id == SLIDING else -1,
        tp_q_head_num=HEADS,
        qk_head_dim=DIM,
        v_head_dim=DIM,
        scaling=0.25,
    )
    batch = SimpleNamespace(
        forward_mode=SimpleNamespace(is_target_verify=lambda: False),
        seq_lens=torch.tensor([LENGTH]),
        extend_seq_lens=torch.tensor([queries]),
        req_pool_indices=torch.tensor([0]),
    )
    q = torch.randn(queries, HEADS * DIM, generator=torch.Generator().manual_seed(2))
    name = "forward_decode" if queries == 1 else "forward_extend"
    forward = hook_of(cpu_torch_attention.PATCH, "replace", name)
    got = forward(backend, q, None, None, layer, batch, save_kv_cache=False)
    where = pool.translate_loc_from_full_to_swa(slots) if layer_id == SLIDING else slots
    for row in range(queries):
        end = LENGTH - queries + row + 1
        seen = where[max(0, end - WINDOW) if layer_id == SLIDING else 0 : end]
        keys, values = pool.kv[:, seen].double()
        scores = torch.einsum("hd,shd->hs", q[row].view(HEADS, DIM).double(), keys) * 0.25
        expected = torch.einsum("hs,shd->hd", scores.softmax(-1), values).flatten()
        torch.testing.assert_close(got[row].double(), expected, rtol=1e-5, atol=1e-5)
