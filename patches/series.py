# SPDX-License-Identifier: Apache-2.0
"""The ordered list of all patches: the only place where they are named."""

from sglang_gemma4_ext.patches.chat import (
    answers_always_constrained,
    chat_history,
    end_of_turn,
    json_without_loops,
    native_tool_grammar,
    outdated_template,
    parsers_by_default,
    reasoning,
    thought_usage,
    tool_calls,
    tool_declarations,
)
from sglang_gemma4_ext.patches.checkpoints import (
    causal_lm_config,
    unified_kv_scales,
    unified_without_ple,
)
from sglang_gemma4_ext.patches.cpu import (
    cpu_exact_kv_cache,
    cpu_interpreter_bf16,
    cpu_softcap,
    cpu_speculative_ops,
    cpu_torch_attention,
    cpu_unified_memory,
)
from sglang_gemma4_ext.patches.drafts import (
    draft_defaults,
    draft_position,
    draft_without_kv,
    exact_tree_window,
    swa_state_follows_pool,
)
from sglang_gemma4_ext.patches.memory import (
    context_ceiling,
    kernels_before_pools,
    kv_bounds_check,
    memory_reserve,
    shared_layers_without_kv,
    swa_policy,
)
from sglang_gemma4_ext.patches.model import (
    exact_sliding_window,
    experts_tanh_gelu,
    extend_attention_tiles,
    fused_router,
    jit_bit_cast,
    router_scale,
    text_only,
)
from sglang_gemma4_ext.patches.nvfp4 import (
    experts_without_swizzled_scales,
    nvfp4_compressed_tensors,
    nvfp4_fused_activation,
    nvfp4_ignored_layers,
    nvfp4_modelopt,
)
from sglang_gemma4_ext.patches.requests import (
    request_fields,
    request_samples,
    request_sampling,
    request_tokens,
    secrets_unlogged,
)
from sglang_gemma4_ext.registry import Patch

PATCHES: tuple[Patch, ...] = (
    causal_lm_config.PATCH,
    unified_without_ple.PATCH,
    text_only.PATCH,
    exact_sliding_window.PATCH,
    exact_tree_window.PATCH,
    router_scale.PATCH,
    experts_tanh_gelu.PATCH,
    context_ceiling.PATCH,
    memory_reserve.PATCH,
    shared_layers_without_kv.PATCH,
    swa_policy.PATCH,
    swa_state_follows_pool.PATCH,
    draft_position.PATCH,
    draft_defaults.PATCH,
    draft_without_kv.PATCH,
    request_fields.PATCH,
    request_tokens.PATCH,
    request_samples.PATCH,
    request_sampling.PATCH,
    secrets_unlogged.PATCH,
    chat_history.PATCH,
    tool_declarations.PATCH,
    outdated_template.PATCH,
    end_of_turn.PATCH,
    native_tool_grammar.PATCH,
    answers_always_constrained.PATCH,
    json_without_loops.PATCH,
    thought_usage.PATCH,
    parsers_by_default.PATCH,
    reasoning.PATCH,
    tool_calls.PATCH,
    kv_bounds_check.PATCH,
    extend_attention_tiles.PATCH,
    fused_router.PATCH,
    jit_bit_cast.PATCH,
    unified_kv_scales.PATCH,
    nvfp4_ignored_layers.PATCH,
    nvfp4_modelopt.PATCH,
    nvfp4_compressed_tensors.PATCH,
    nvfp4_fused_activation.PATCH,
    experts_without_swizzled_scales.PATCH,
    kernels_before_pools.PATCH,
    cpu_torch_attention.PATCH,
    cpu_softcap.PATCH,
    cpu_exact_kv_cache.PATCH,
    cpu_unified_memory.PATCH,
    cpu_interpreter_bf16.PATCH,
    cpu_speculative_ops.PATCH,
)
