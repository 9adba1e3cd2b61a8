# SPDX-License-Identifier: Apache-2.0
"""Apply the MoE router's learned scale in every execution mode, rounded once, after updates too.

`Gemma4Router.fuse_scale` folds scale * hidden_size**-0.5 into the weight of a norm that was built
with `with_scale=False`. The CUDA kernel multiplies by that weight. `forward_native`, which runs on
a CPU and under torch.compile, ignores it.

In a BF16 model SGLang rounds hidden_size**-0.5 to BF16 before the product, and the product again.
For the 26B-A4B that makes every logit 0.24 % smaller. The fold here is in fp32, rounded once.

SGLang folds once, at the first forward. A later weight update changes only `scale`. Therefore the
parameter's loader folds again, in place, so that captured graphs read the new weight.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

ROUTER = "sglang.srt.models.gemma4_causal.Gemma4Router"
NORM = "sglang.srt.layers.layernorm.Gemma4RMSNorm"


def _fold(result: None, router: Any) -> None:
    """AFTER fuse_scale: fold again in fp32, and let forward_native multiply by the weight."""
    scale = router.scale.data.float()
    router.norm.weight.data.copy_(scale * scale.numel() ** -0.5)
    router.norm.with_scale = True


def _fold_when_loaded(result: None, router: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER Gemma4Router.__init__: make a later load of `scale` fold the new value."""

    def load(parameter: torch.nn.Parameter, loaded: torch.Tensor) -> None:
        from sglang.srt.model_loader.weight_utils import default_weight_loader

        default_weight_loader(parameter, loaded)
        if router._scale_fused:
            router.fuse_scale()

    router.scale.weight_loader = load


def _retired() -> bool:
    from sglang.srt.models.gemma4_causal import Gemma4Router

    source = inspect.getsource(inspect.unwrap(Gemma4Router.fuse_scale))
    return "with_scale" in source and "float32" in source


def _stands_down(ctx: Context) -> str | None:
    return None if ctx.model is None or ctx.model.is_moe else "the model has no experts"


PATCH = Patch(
    name="router_scale",
    theme="model",
    summary="MoE router: the learned scale holds in every execution mode, rounded once and updated",
    why=(
        "forward_native of the router's norm ignores the weight that holds the folded scale, so "
        "CPUs and torch.compile route by unscaled logits; the fold rounds its constant to BF16 "
        "and is not repeated after a weight update"
    ),
    upstream="sgl-project/sglang#32131 (closed) on the CPU; the rounding and the update unreported",
    retire_when="fuse_scale makes its norm multiply by the weight, and folds in fp32",
    retired=_retired,
    hooks=(
        Hook(f"{ROUTER}.fuse_scale", "f7ae349286c2", "after", _fold),
        Hook(f"{ROUTER}.__init__", "13bf946c5352", "after", _fold_when_loaded),
    ),
    relies_on=(
        Source(f"{ROUTER}.forward", "c9b809ff00a5"),
        Source(f"{NORM}.forward_native", "43447861698a"),
        Source(f"{NORM}.forward_cuda", "0505fd718d5a"),
    ),
    stands_down=_stands_down,
)
