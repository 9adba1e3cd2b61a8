# SPDX-License-Identifier: Apache-2.0
"""The MoE router's learned scale holds wherever the norm runs in plain PyTorch.

`Gemma4Router.fuse_scale` folds scale * hidden_size**-0.5 into the weight of a norm that was built
with `with_scale=False`. The CUDA kernel multiplies by that weight; `forward_native`, which runs on
a CPU and under torch.compile, does not look at it.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

ROUTER = "sglang.srt.models.gemma4_causal.Gemma4Router"
NORM = "sglang.srt.layers.layernorm.Gemma4RMSNorm"


def _norm_has_scale(result: None, router: Any) -> None:
    """AFTER fuse_scale: say that the weight now counts. forward_cuda reads it either way."""
    router.norm.with_scale = True


def _retired() -> bool:
    from sglang.srt.models.gemma4_causal import Gemma4Router

    source = inspect.getsource(inspect.unwrap(Gemma4Router.fuse_scale))
    return "with_scale" in source


def _stands_down(ctx: Context) -> str | None:
    return None if ctx.model is None or ctx.model.is_moe else "the model has no experts"


PATCH = Patch(
    name="router_scale",
    theme="model",
    summary="MoE router: the learned per-dimension scale holds in every execution mode",
    why="forward_native of the router's norm ignores the weight that the scale was folded into, "
    "so a CPU, --enable-torch-compile and inductor graphs route by unscaled logits",
    upstream="unreported; since 0.5.13",
    retire_when="fuse_scale makes its norm multiply by the weight",
    retired=_retired,
    hooks=(Hook(f"{ROUTER}.fuse_scale", "f7ae349286c2", "after", _norm_has_scale),),
    relies_on=(
        Source(f"{ROUTER}.forward", "c9b809ff00a5"),
        Source(f"{NORM}.forward_native", "43447861698a"),
        Source(f"{NORM}.forward_cuda", "0505fd718d5a"),
    ),
    stands_down=_stands_down,
)
