# SPDX-License-Identifier: Apache-2.0
"""Give a checkpoint's tensors the names that SGLang's Gemma 4 classes load.

transformers adds or removes a leading `model.` where the rest then fits: base models saved alone
have none, some exports have two. SGLang's classes know one form.
"""

from __future__ import annotations

import re

from sglang_gemma4_ext.checkpoint.model_family import MULTIMODAL_ARCHITECTURES

# What the language model of every class holds, behind its prefix.
INNER = re.compile(
    r"(embed_tokens(_per_layer)?|norm|per_layer_model_projection|per_layer_projection_norm)\.[^.]+"
    r"|layers\.\d+\.(self_attn|mlp|moe|experts|router|[a-z_]*norm(_\d)?|layer_scalar"
    r"|per_layer_input_gate|per_layer_projection)\b.*|rotary_emb.*"
)
_DOUBLED = "model.model."


def served_name(name: str, architecture: str) -> str:
    """Return the name by which SGLang's class loads what transformers loads as `name`."""
    if name.startswith(_DOUBLED):
        name = name.removeprefix("model.")
    if architecture not in MULTIMODAL_ARCHITECTURES and INNER.fullmatch(name):
        return f"model.{name}"
    return name
