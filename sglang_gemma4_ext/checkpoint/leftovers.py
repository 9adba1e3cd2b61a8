# SPDX-License-Identifier: Apache-2.0
"""Recognize tensors of a checkpoint that a server is known not to need."""

from __future__ import annotations

import re

from sglang_gemma4_ext.checkpoint.model_family import TOWER_WEIGHT

# A head beside tied embeddings, positions that are computed, and scales with a working default.
_UNUSED = re.compile(
    r"(model\.)?lm_head\..+"
    r"|.*\.rotary_emb\..+"
    r"|.*\.(input_scale|input_global_scale|[kqv]_scale|(input|output)_(min|max)|weight_shape|(weight_)?g_idx)"
    r"|.*\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\..+"
)


def is_leftover(name: str) -> bool:
    """Tell whether a tensor that no part of the model took is known to be unused."""
    return bool(TOWER_WEIGHT.match(name) or _UNUSED.fullmatch(name))
