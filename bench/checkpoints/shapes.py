# SPDX-License-Identifier: Apache-2.0
"""Write config.json files of any geometry, including the released models', without weights."""

from __future__ import annotations

import json
from pathlib import Path

from sglang_gemma4_ext.plan.geometry import Geometry


def write_config(geometry: Geometry, out: Path) -> Path:
    """Write the multimodal class's config with null towers into `out`, and return `out`."""
    text = {
        "model_type": "gemma4_text",
        "vocab_size": geometry.vocab,
        "vocab_size_per_layer_input": geometry.vocab,
        "hidden_size": geometry.hidden,
        "hidden_size_per_layer_input": geometry.ple,
        "intermediate_size": geometry.intermediate,
        "num_hidden_layers": geometry.layers,
        "layer_types": list(geometry.layer_types),
        "num_attention_heads": geometry.heads,
        "num_key_value_heads": geometry.kv_heads,
        "num_global_key_value_heads": geometry.global_kv_heads if geometry.k_eq_v else None,
        "head_dim": geometry.head_dim,
        "global_head_dim": geometry.global_head_dim,
        "attention_k_eq_v": geometry.k_eq_v,
        "num_kv_shared_layers": geometry.kv_shared,
        "use_double_wide_mlp": geometry.double_wide_mlp,
        "sliding_window": geometry.window,
        "max_position_embeddings": geometry.max_context,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True,
    }
    if geometry.is_moe:
        text |= {
            "enable_moe_block": True,
            "num_experts": geometry.experts,
            "top_k_experts": geometry.top_k,
            "moe_intermediate_size": geometry.expert_intermediate,
        }
    config = {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "dtype": "bfloat16",
        "text_config": text,
        "vision_config": None,
        "audio_config": None,
        "tie_word_embeddings": True,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return out
