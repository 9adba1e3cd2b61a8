# SPDX-License-Identifier: Apache-2.0
"""Recognize the names of a Gemma 4 language model's tensors."""

from __future__ import annotations

import re

# What the language model of every class holds, behind its prefix.
INNER = re.compile(
    r"(embed_tokens(_per_layer)?|norm|per_layer_model_projection|per_layer_projection_norm)\.[^.]+"
    r"|layers\.\d+\.(self_attn|mlp|moe|experts|router|[a-z_]*norm(_\d)?|layer_scalar"
    r"|per_layer_input_gate|per_layer_projection)\b.*|rotary_emb.*"
)
