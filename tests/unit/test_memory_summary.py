# SPDX-License-Identifier: Apache-2.0
"""Check that the launcher's memory line adds up and never stops a server's start."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sglang_gemma4_ext.launcher import memory_summary
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.plan.sizes import GIB
from tests.checkpoints.assistant import build_assistant


def settled(path, **others):
    plain = {"tp_size": 1, "speculative_draft_model_path": None, "enable_multimodal": None,
             "mem_fraction_static": 0.8, "context_length": None, "max_running_requests": None,
             "chunked_prefill_size": 2048, "swa_full_tokens_ratio": None, "page_size": 1,
             "kv_cache_dtype": "auto", "revision": None}  # fmt: skip
    return SimpleNamespace(model_path=str(path), **{**plain, **others})


def test_weights_and_draft_equal_the_files(checkpoint, tmp_path):
    target = checkpoint("dense")
    draft = build_assistant(target, tmp_path / "assistant")
    said = memory_summary.describe_memory(
        settled(target, speculative_draft_model_path=str(draft)), cpu=True
    )
    stored = sum(w.nbytes for w in load_file(draft / "model.safetensors").values())
    assert re.fullmatch(rf"weights [\d,]+ bytes, draft {stored:,} bytes", said)


def test_on_a_gpu_the_parts_add_up_to_its_memory(monkeypatch, checkpoint):
    monkeypatch.setattr(memory_summary, "gpu_memory_bytes", lambda: 24 * GIB)
    monkeypatch.setattr(memory_summary, "detect_gpu", lambda: Gpu("nvidia", "A10G", (8, 6)))
    said = memory_summary.describe_memory(settled(checkpoint("dense")), cpu=False)
    reserve, kv = map(
        float, re.search(r"reserve ([\d.]+) GiB, KV ([\d.]+) GiB of 24.0", said).groups()
    )
    context = 24 - reserve - kv
    assert reserve == pytest.approx((24 - context) * 0.2, abs=0.02)
    assert 0.2 < context < 1.5


def test_memory_that_cannot_be_counted_is_reported(tmp_path, checkpoint):
    said = memory_summary.describe_memory(settled("google/gemma-4-12B-it"), cpu=True)
    assert said.startswith("not planned: ")
    draft = settled(checkpoint("dense"), speculative_draft_model_path="google/an-assistant")
    said = memory_summary.describe_memory(draft, cpu=True)
    flag = "--speculative-draft-model-path"
    assert said.startswith(f"not planned: {flag} google/an-assistant is not a folder: give")
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "config.json").write_text((checkpoint("dense") / "config.json").read_text())
    save_file(
        {"model.norm.weight": torch.ones(2, dtype=torch.complex64)}, odd / "model.safetensors"
    )
    said = memory_summary.describe_memory(settled(odd), cpu=True)
    assert "whose size is not known" in said
