# SPDX-License-Identifier: Apache-2.0
"""The ordered list of all patches: the only place where they are named."""

from sglang_gemma4_ext.patches import (
    causal_lm_config,
    cpu_softcap,
    cpu_torch_attention,
    exact_sliding_window,
    router_scale,
    text_only,
)
from sglang_gemma4_ext.registry import Patch

PATCHES: tuple[Patch, ...] = (
    causal_lm_config.PATCH,
    text_only.PATCH,
    exact_sliding_window.PATCH,
    router_scale.PATCH,
    cpu_torch_attention.PATCH,
    cpu_softcap.PATCH,
)
