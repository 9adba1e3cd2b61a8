# SPDX-License-Identifier: Apache-2.0
"""Check how many keys Triton attention gathers in decode, and what stays unchanged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.patches.model import exact_sliding_window
from tests.patches.hooks import hook_of

WINDOW = 32


def gathered(backend: SimpleNamespace) -> list[int]:
    """Count the keys that SGLang's function gathers for requests of 10, 32 and 50 tokens."""
    from sglang.srt.layers.attention import triton_backend

    translator = SimpleNamespace(pack_read_stream=lambda *a, **k: True, window_kv_kind=None)
    lengths = torch.tensor([10, 32, 50])
    _, _, kept, _ = triton_backend.update_sliding_window_buffer(
        torch.zeros(4, dtype=torch.int64),
        *(translator, None, lengths, backend.sliding_window_size, lengths, 3),
        device="cpu",
    )
    return kept.tolist()


@pytest.fixture
def backend() -> SimpleNamespace:
    """Build a backend; SGLang stores the distance to the oldest visible key."""
    return SimpleNamespace(sliding_window_size=WINDOW - 1)


@pytest.mark.parametrize("name", ["_update_decode_kv_buffers", "init_cuda_graph_state"])
def test_decode_gathers_the_whole_window(name, backend):
    hook = hook_of(exact_sliding_window.PATCH, "around", name)
    assert gathered(backend) == [10, WINDOW - 1, WINDOW - 1]
    assert hook(gathered, backend) == [10, WINDOW, WINDOW]
    assert backend.sliding_window_size == WINDOW - 1


@pytest.mark.parametrize("decode", [True, False])
def test_prefill_keeps_its_distance(decode, backend):
    hook = hook_of(exact_sliding_window.PATCH, "around", "init_forward_metadata")
    batch = SimpleNamespace(forward_mode=SimpleNamespace(is_decode_or_idle=lambda: decode))
    found = hook(lambda self, batch: gathered(self), backend, batch)
    assert found[-1] == (WINDOW if decode else WINDOW - 1)


def test_an_error_restores_the_window(backend):
    def fails(self: SimpleNamespace) -> None:
        raise RuntimeError("inside")

    hook = hook_of(exact_sliding_window.PATCH, "around", "_update_decode_kv_buffers")
    with pytest.raises(RuntimeError, match="inside"):
        hook(fails, backend)
    assert backend.sliding_window_size == WINDOW - 1


@pytest.mark.parametrize(("window", "grown"), [(31, 32), (-1, -1), (None, None)])
def test_a_multi_step_draft_decodes_with_the_whole_window(window, grown):
    draft = SimpleNamespace(sliding_window_size=window)
    hook_of(exact_sliding_window.PATCH, "after", "__init__")(None, draft)
    assert draft.sliding_window_size == grown
