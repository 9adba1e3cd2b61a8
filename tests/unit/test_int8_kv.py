# SPDX-License-Identifier: Apache-2.0
"""Check the facts of docs/memory.md on KV in int8: where SGLang cannot carry scales for Gemma 4.

A failure means that SGLang gained a seam; read that section again then.
"""

from __future__ import annotations

import inspect

import pytest
import torch


def test_no_flag_and_no_method_of_sglang_is_int8() -> None:
    from sglang.srt.layers.quantization.fp4_kv_cache_quant_method import (
        KV_CACHE_QUANT_REGISTRY,
        get_kv_cache_quant_method,
    )
    from sglang.srt.mem_cache.kv_cache_dtype import configure_kv_cache_dtype

    assert sorted(KV_CACHE_QUANT_REGISTRY) == ["cpu_fp8_e4m3", "fp4_mx_block16", "nvfp4"]
    with pytest.raises(ValueError, match="Unknown KV cache quantization method: 'int8'"):
        get_kv_cache_quant_method("int8")
    with pytest.raises(ValueError, match=r"Unsupported kv_cache_dtype: int8"):
        configure_kv_cache_dtype(
            server_args_kv_cache_dtype="int8", model=None, model_dtype=torch.bfloat16,
            is_draft_worker=False, is_dflash=False, speculative_draft_attention_backend="triton",
        )  # fmt: skip


def test_the_pools_of_gemma4_are_built_without_a_method() -> None:
    from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator

    def builds(name: str) -> str:
        return inspect.getsource(inspect.unwrap(getattr(KVCacheConfigurator, name)))

    for name in ("_build_hybrid_swa_kv_pool", "_init_unified_swa_pools"):
        assert "quant_method" not in builds(name), name
    assert "quant_method" in builds("_build_mha_kv_pool")


def test_an_entry_of_the_shared_pool_is_keys_and_values_alone() -> None:
    """Two layers of two heads of 64 at one byte are 512 bytes, without room for a scale."""
    from sglang.srt.mem_cache.unified_memory_pool import MHASubPoolSpec

    spec = MHASubPoolSpec(
        name="full", layer_num=2, head_num=2, head_dim=64, v_head_dim=64,
        store_dtype=torch.uint8, kv_cache_dtype=torch.float8_e4m3fn, grow_direction="down",
    )  # fmt: skip
    assert spec.entry_bytes() == 2 * 2 * (64 + 64)
    assert {part.name for part in spec.layout().parts} == {"k", "v"}


def test_the_triton_backend_gives_attention_no_scales_of_rows() -> None:
    from sglang.srt.layers.attention.triton_backend import TritonAttnBackend

    for name in ("forward_decode", "forward_extend"):
        source = inspect.getsource(inspect.unwrap(getattr(TritonAttnBackend, name)))
        assert "get_key_buffer" in source or "get_kv_buffer" in source
        assert "scale_buffer" not in source, name
