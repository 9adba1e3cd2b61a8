# SPDX-License-Identifier: Apache-2.0
"""Check that the launcher's memory line adds up and never stops a server's start."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.checkpoints.shapes import write_config
from sglang_gemma4_ext.launcher import memory_summary
from sglang_gemma4_ext.machine import Gpu, Memory
from sglang_gemma4_ext.plan.geometry import BUILT_IN
from sglang_gemma4_ext.plan.sizes import GIB
from tests.checkpoints.assistant import build_assistant


def settled(path, **others):
    plain = {"tp_size": 1, "speculative_draft_model_path": None, "enable_multimodal": None,
             "mem_fraction_static": 0.8, "context_length": None, "max_running_requests": None,
             "chunked_prefill_size": 2048, "swa_full_tokens_ratio": None, "page_size": 1,
             "kv_cache_dtype": "auto", "revision": None, "max_total_tokens": None,
             "speculative_num_draft_tokens": None,
             "enable_deterministic_inference": False}  # fmt: skip
    return SimpleNamespace(model_path=str(path), **{**plain, **others})


def test_weights_and_draft_equal_the_files(checkpoint, tmp_path):
    target = checkpoint("dense")
    draft = build_assistant(target, tmp_path / "assistant")
    (said,) = memory_summary.describe_memory(
        settled(target, speculative_draft_model_path=str(draft)), cpu=True
    )
    stored = sum(w.nbytes for w in load_file(draft / "model.safetensors").values())
    assert re.fullmatch(rf"weights [\d,]+ bytes, draft {stored:,} bytes", said)


def test_on_a_gpu_the_parts_add_up_to_its_memory(monkeypatch, checkpoint):
    monkeypatch.setattr(memory_summary, "gpu_memory", lambda: Memory(24 * GIB))
    monkeypatch.setattr(memory_summary, "detect_gpu", lambda: Gpu("nvidia", "A10G", (8, 6)))
    (said,) = memory_summary.describe_memory(settled(checkpoint("dense")), cpu=False)
    reserve, kv = map(
        float, re.search(r"reserve ([\d.]+) GiB, KV ([\d.]+) GiB of 24.0", said).groups()
    )
    context = 24 - reserve - kv
    assert reserve == pytest.approx((24 - context) * 0.2, abs=0.02)
    assert 0.2 < context < 1.5


def test_memory_that_cannot_be_counted_is_reported(tmp_path, checkpoint):
    (said,) = memory_summary.describe_memory(settled("google/gemma-4-12B-it"), cpu=True)
    assert said.startswith("not planned: ")
    draft = settled(checkpoint("dense"), speculative_draft_model_path="google/an-assistant")
    (said,) = memory_summary.describe_memory(draft, cpu=True)
    flag = "--speculative-draft-model-path"
    assert said.startswith(f"not planned: {flag} google/an-assistant is not a folder: give")
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "config.json").write_text((checkpoint("dense") / "config.json").read_text())
    save_file(
        {"model.norm.weight": torch.ones(2, dtype=torch.complex64)}, odd / "model.safetensors"
    )
    (said,) = memory_summary.describe_memory(settled(odd), cpu=True)
    assert "whose size is not known" in said


@pytest.fixture
def on_a10g(monkeypatch, tmp_path):
    """on_a10g(made, **flags): the lines of a 12B in BF16 on 32 GiB whose pools are made."""
    folder = write_config(BUILT_IN["12B"], tmp_path)
    monkeypatch.setattr(memory_summary, "gpu_memory", lambda: Memory(32 * GIB))
    monkeypatch.setattr(memory_summary, "gpu_memory_now", lambda: Memory(32 * GIB, 30 * GIB))
    monkeypatch.setattr(memory_summary, "detect_gpu", lambda: Gpu("nvidia", "A10G", (8, 6)))

    def lines(made: int, **flags):
        cfg = settled(folder, mem_fraction_static=0.9, **flags)
        return memory_summary.describe_memory(cfg, cpu=False, made_tokens=made)

    return lines


@pytest.mark.parametrize("ratio", [None, 0.25])
def test_made_pools_are_compared_with_planned_ones(on_a10g, ratio):
    """SGLang labels a shared buffer by the tokens of its own ratio, 0.8."""
    whole = on_a10g(0, swa_full_tokens_ratio=ratio)
    kv = float(re.search(r"KV ([\d.]+) GiB", whole[0])[1])
    cell = 16_384 + (ratio or 0.8) * 327_680
    label = int(kv * GIB / cell)
    _, said = on_a10g(label, swa_full_tokens_ratio=ratio)
    assert re.search(rf"KV pools {kv:.2f} GiB planned, {kv:.2f} GiB made, ", said)
    assert "(+0.0%)" in said or "(-0.0%)" in said or "0.1%" in said
    assert said.endswith("; 2.00 GiB of the GPU are free")
    for share, words in ((0.96, "4% less"), (1.04, "4% more")):
        _, said, warning = on_a10g(int(label * share), swa_full_tokens_ratio=ratio)
        assert warning.startswith(f"warning: KV pools are {words} than planned")
    for share in (0.975, 1.025):
        assert len(on_a10g(int(label * share), swa_full_tokens_ratio=ratio)) == 2


def test_pools_of_a_given_size_are_not_compared(on_a10g):
    assert len(on_a10g(1000, max_total_tokens=1000)) == 1


def test_without_a_gpu_the_size_is_stated(checkpoint):
    lines = memory_summary.describe_memory(settled(checkpoint("dense")), True, 65_536)
    assert lines[1:] == ["KV pools of 65,536 tokens"]
