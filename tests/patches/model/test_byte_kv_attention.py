# SPDX-License-Identifier: Apache-2.0
"""Check where our attention reads the KV cache; tests/kernels compares its results."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import NO_GPU, Gpu
from sglang_gemma4_ext.patches.model.byte_kv_attention import PATCH
from sglang_gemma4_ext.settings import Settings, SettingsError
from tests.patches.hooks import hook_of

A10G, H100 = Gpu("nvidia", "A10G", (8, 6)), Gpu("nvidia", "H100", (9, 0))
B200 = Gpu("nvidia", "B200", (10, 0))


@pytest.mark.parametrize(
    ("given", "gpu", "reason"),
    [
        ({}, A10G, None),
        ({}, H100, None),
        ({"attention": "ours"}, A10G, None),
        ({"attention": "sglang"}, A10G, "--gemma4-attention sglang"),
        ({}, B200, "for NVIDIA GPUs of compute capability 8.0 to 9.0"),
        ({"cpu": True}, NO_GPU, "torch_native serves attention"),
        ({"cpu": True, "cpu_attention": "triton"}, NO_GPU, None),
    ],
)
def test_where_it_applies(given, gpu, reason) -> None:
    assert PATCH.stands_down(Context(Settings(**given), gpu=gpu)) == reason


def test_the_setting_travels() -> None:
    env: dict[str, str] = {}
    Settings(attention="ours").export(env)
    assert Settings.from_env(env).attention == "ours"
    with pytest.raises(SettingsError, match="--gemma4-attention must be one of auto, ours, sglang"):
        Settings(attention="mine")  # type: ignore[arg-type]


def test_calls_over_a_bf16_cache_reach_sglangs_functions() -> None:
    """tests/kernels/test_byte_kv_backend.py runs the backend over an E4M3 cache."""
    called: list[tuple] = []
    backend = SimpleNamespace(
        decode_attention_fwd=lambda *args, **kwargs: called.append((args, kwargs)),
        extend_attention_fwd=lambda *args, **kwargs: called.append((args, kwargs)),
    )
    hook_of(PATCH, "after", "__init__")(None, backend)
    q, cache = torch.zeros(1, 4, 64).bfloat16(), torch.zeros(2, 2, 64).bfloat16()
    decode = (q, cache, cache, *range(7), 1.0, 1.0, 1.0)
    extend = (q, q, q, q, cache, cache, *range(7), 1.0, 1.0, 1.0)
    backend.decode_attention_fwd(*decode, page_size=1)
    backend.extend_attention_fwd(*extend, sliding_window_size=5)
    assert called == [(decode, {"page_size": 1}), (extend, {"sliding_window_size": 5})]
