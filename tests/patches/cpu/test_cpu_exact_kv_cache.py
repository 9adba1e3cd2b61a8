# SPDX-License-Identifier: Apache-2.0
"""Check the KV-cache dtype without a GPU, for a checkpoint with FP8 KV-cache scales."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.patches.cpu import cpu_exact_kv_cache
from tests.patches.hooks import hook_of


@pytest.mark.parametrize(
    ("flag", "stock", "patched"),
    [
        ("auto", torch.float8_e4m3fn, torch.float32),
        ("bf16", torch.bfloat16, torch.bfloat16),
    ],
)
def test_auto_becomes_the_models_dtype(flag, stock, patched):
    from sglang.srt.mem_cache.kv_cache_dtype import configure_kv_cache_dtype

    asked = {
        "server_args_kv_cache_dtype": flag,
        "model": SimpleNamespace(quant_config=SimpleNamespace(kv_cache_quant_algo="FP8")),
        "model_dtype": torch.float32,
        "is_draft_worker": False,
        "is_dflash": False,
        "speculative_draft_attention_backend": "triton",
    }
    found = inspect.unwrap(configure_kv_cache_dtype)(**asked)
    assert found[1] == stock
    hook = hook_of(cpu_exact_kv_cache.PATCH, "after", "configure_kv_cache_dtype")
    assert hook(found, **asked)[1] == patched
