# SPDX-License-Identifier: Apache-2.0
"""The ordered list of all patches: the only place where they are named."""

from sglang_gemma4_ext.patches import (
    causal_lm_config,
    cpu_exact_kv_cache,
    cpu_interpreter_bf16,
    cpu_softcap,
    cpu_torch_attention,
    exact_sliding_window,
    extend_attention_tiles,
    fused_router,
    jit_bit_cast,
    nvfp4_compressed_tensors,
    nvfp4_ignored_layers,
    nvfp4_modelopt,
    router_scale,
    text_only,
    unified_kv_scales,
    unified_without_ple,
)
from sglang_gemma4_ext.registry import Patch

PATCHES: tuple[Patch, ...] = (
    causal_lm_config.PATCH,
    unified_without_ple.PATCH,
    text_only.PATCH,
    exact_sliding_window.PATCH,
    extend_attention_tiles.PATCH,
    router_scale.PATCH,
    fused_router.PATCH,
    jit_bit_cast.PATCH,
    unified_kv_scales.PATCH,
    nvfp4_ignored_layers.PATCH,
    nvfp4_modelopt.PATCH,
    nvfp4_compressed_tensors.PATCH,
    cpu_torch_attention.PATCH,
    cpu_softcap.PATCH,
    cpu_exact_kv_cache.PATCH,
    cpu_interpreter_bf16.PATCH,
)
