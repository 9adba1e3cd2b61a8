# SPDX-License-Identifier: Apache-2.0
"""Compare lines of a plan with what SGLang's own code allocates, on PyTorch's meta device.

Shapes are those of the released models, so sizes are real, and no memory is used.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_gemma4_ext.plan import reserve
from sglang_gemma4_ext.plan.geometry import BUILT_IN, Geometry
from sglang_gemma4_ext.plan.reserve import Load
from sglang_gemma4_ext.plan.sizes import MIB

LOADS = [
    Load(4096, 48, 262_144, 128),
    Load(2048, 8, 32_768, 16),
    Load(8192, 256, 131_072, 512, tp=2),
    Load(4096, 48, 262_144, 64, draft_tokens=4),
    Load(8192, 256, 131_072, 256, draft_tokens=3, tp=2),
]
# Counters and offsets of a few bytes a row, which no plan lists.
SMALL = MIB


def _bytes(found: Any) -> int:
    """Sum the tensors among a namespace's values."""
    tensors = [value for value in vars(found).values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _graph_buffers(geometry: Geometry, load: Load, rows: int, *, draft: bool = False) -> int:
    """Return the bytes that SGLang's Triton backend allocates for CUDA graphs."""
    from sglang.srt.layers.attention.triton_backend import TritonAttnBackend

    drafts = load.draft_tokens > 1
    state = SimpleNamespace(
        dllm_attention=None,
        num_head=geometry.heads // load.tp,
        max_kv_splits=8,
        v_head_dim=geometry.global_head_dim,
        swa_v_head_dim=geometry.head_dim,
        device="meta",
        lean_total_programs=0,  # a few MiB by the GPU's multiprocessors
        lean_block_m=16,
        max_context_len=load.context,
        is_draft_runner=draft,
        skip_prefill=False,
        num_draft_tokens=load.draft_tokens if drafts else None,
        sliding_window_size=geometry.window,
        use_sliding_window_kv_pool=True,
    )
    TritonAttnBackend.init_cuda_graph_state(state, load.graph_batch, rows)
    mask = state._verify_mask
    return _bytes(state) + (mask.buffer.numel() * mask.buffer.element_size() if mask else 0)


@pytest.mark.parametrize("load", LOADS, ids=str)
@pytest.mark.parametrize("model", ["E2B", "26B-A4B", "31B"])
def test_what_comes_after_the_pools_is_what_sglang_allocates(
    model, load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request table, the attention backend's buffers, the draft's, and the verify mask."""
    from sglang.srt.layers.attention import verify_mask
    from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
    from sglang.srt.speculative.eagle_utils import TreeMaskMode

    monkeypatch.setattr(verify_mask, "default_tree_mask_mode", lambda: TreeMaskMode.FULL_MASK)
    geometry = BUILT_IN[model]
    drafts = load.draft_tokens > 1
    # kv_cache_configurator adds four columns, and one for each token to verify.
    columns = load.context + 4 + (load.draft_tokens if drafts else 0)
    pool = ReqToTokenPool(load.requests, columns, "meta", enable_memory_saver=False)
    made = pool.req_to_token.numel() * pool.req_to_token.element_size()
    made += _graph_buffers(geometry, load, load.graph_batch * load.draft_tokens)
    if drafts:
        made += _graph_buffers(geometry, load, load.graph_batch, draft=True)
    planned = reserve.late_allocations(geometry, load)
    assert planned == pytest.approx(made, abs=SMALL)


def test_drafts_cost_their_buffers_and_a_mask() -> None:
    """On a 24 GB card: 48 MiB of mask, 132 of the draft's buffers, three columns of the table."""
    geometry, load = BUILT_IN["31B"], LOADS[3]
    alone = replace(load, draft_tokens=1, graph_batch=4 * load.graph_batch)
    mask = 48 * 4 * (262_144 + 4)
    draft = 48 * (8 * (262_144 + 1024) + 4 * 32 * 8 * (256 + 512 + 1))
    cost = reserve.late_allocations(geometry, load) - reserve.late_allocations(geometry, alone)
    assert cost == mask + draft + 4 * 65 * 3
