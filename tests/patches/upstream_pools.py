# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's own pool configurator on a geometry, without a GPU or a model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.checkpoints.shapes import write_config
from sglang_gemma4_ext.plan.geometry import Geometry


def configurator(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    geometry: Geometry,
    *,
    ratio: float = 0.8,
    page: int = 1,
    unified: bool = False,
) -> Any:
    """Build HybridSWAPoolConfigurator on SGLang's ModelConfig of the geometry and fake settings."""
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.model_executor import pool_configurator
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    model = ModelConfig(str(write_config(geometry, folder)), enable_multimodal=False)
    settings = {
        "get_parallel": {"attn_tp_size": 1, "attn_dcp_size": 1},
        "get_schedule": {
            "swa_full_tokens_ratio": ratio,
            "page_size": page,
            "max_running_requests": None,
            "chunked_prefill_size": 4096,
            "disable_overlap_schedule": False,
        },
        "get_memory": {"enable_unified_memory": unified, "disable_radix_cache": False},
    }
    for name, values in settings.items():
        fake = SimpleNamespace(**values)
        monkeypatch.setattr(pool_configurator, name, lambda fake=fake: fake)
    return pool_configurator.HybridSWAPoolConfigurator(
        SimpleNamespace(
            model_config=model,
            kv_cache_dtype=torch.bfloat16,
            kv_cache_dtype_str="auto",
            page_size=page,
            sliding_window_size=model.sliding_window_size,
            is_draft_worker=False,
            spec_algorithm=SpeculativeAlgorithm.from_string(None),
            layer_info=SimpleNamespace(
                full_attention_layer_ids=model.full_attention_layer_ids,
                swa_attention_layer_ids=model.swa_attention_layer_ids,
            ),
            fused_entry_bytes=lambda side: None,
        )
    )
