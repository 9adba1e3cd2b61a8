# SPDX-License-Identifier: Apache-2.0
"""Run the MoE router in one launch at decode sizes, and read its scales when it runs.

SGLang's layer calls its router for logits, and later its experts' TopK, which calls a closure for
the choice. For few tokens `route_one_launch` computes both at once, in place of the router. The
logits pass through SGLang. Our replacement of the closure recognizes them by identity and returns
their choice. Other logits, for instance modified ones, are routed again.

For more tokens SGLang's norm and projection compute the logits (`router_scale` corrects their
scale) and `route` the choice. Under torch.compile both stay SGLang's own.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels.nvfp4_dispatch import INTERPRETED
from sglang_gemma4_ext.kernels.router_dispatch import row_of
from sglang_gemma4_ext.machine import detect_gpu
from sglang_gemma4_ext.patches.model._counters import counters_are_safe
from sglang_gemma4_ext.registry import Hook, Patch, Source

logger = logging.getLogger(__name__)

MODEL = "sglang.srt.models.gemma4_causal"
TOPK = "sglang.srt.layers.moe.topk"


class Routing:
    """Hold one layer's router and experts, and the choice for the router's latest logits."""

    def __init__(self, router: Any, moe: Any, max_tokens: int):
        self.router = router
        self.moe = moe
        self.max_tokens = max_tokens
        self.stock_choice = moe.topk.topk_config.custom_routing_function
        self._made: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def takes(self, x: torch.Tensor) -> bool:
        """Tell whether these tokens are few, and the layer is as SGLang built it."""
        from sglang.srt.layers.linear import ReplicatedLinear

        return (
            0 < x.shape[0] <= self.max_tokens
            and x.dim() == 2
            and x.stride(1) == 1
            # A LoRA adapter puts another module there.
            and isinstance(self.router.proj, ReplicatedLinear)
            and not torch.compiler.is_compiling()
        )

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, fp32 [T, E]; the choice is kept for `choose`."""
        from sglang_gemma4_ext.kernels.router_one_launch import route_one_launch

        self._made = route_one_launch(
            x,
            self.router.scale.data,
            self.router.proj.weight.data,
            self.moe.per_expert_scale.data,
            self.moe.topk.topk_config.top_k,
            self.router.norm.eps,
            self.router.arrivals,
        )
        _say_once(self.max_tokens)
        return self._made[0]

    def choose(
        self,
        hidden_states: torch.Tensor,
        gating_output: torch.Tensor,
        topk: int,
        renormalize: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights fp32 and ids int32, [T, topk] each: TopK's custom routing function."""
        from sglang_gemma4_ext.kernels.router import route

        if torch.compiler.is_compiling():
            return self.stock_choice(hidden_states, gating_output, topk, renormalize)
        made, self._made = self._made, None
        if made is not None and made[0] is gating_output and made[2].shape[1] == topk:
            return made[1], made[2]
        return route(gating_output, self.moe.per_expert_scale.data, topk)


@functools.cache
def _say_once(max_tokens: int) -> None:
    logger.info("MoE router: norm, projection and choice in one launch up to %d tokens", max_tokens)


def _connect(result: None, layer: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER Gemma4DecoderLayer.__init__, which has built both the router and the experts."""
    if layer.router is None or not _asks_for_a_choice(layer.moe.topk.topk_config.output_format):
        return
    max_tokens = _row().one_launch_max_tokens if counters_are_safe() else 0
    routing = Routing(layer.router, layer.moe, max_tokens)
    layer.router.register_buffer(
        "arrivals", torch.zeros(max_tokens, dtype=torch.int32), persistent=False
    )
    layer.router.routing = routing
    layer.moe.topk.topk_config.custom_routing_function = routing.choose


def _asks_for_a_choice(output_format: Any) -> bool:
    """Tell whether TopK will call its routing function; some MoE backends route by themselves."""
    return output_format is None or output_format.name == "STANDARD"


def _row() -> Any:
    gpu = detect_gpu()
    return row_of(gpu.capability if gpu.vendor == "nvidia" else INTERPRETED)


def _forward(original: Callable[..., torch.Tensor], router: Any, x: torch.Tensor) -> torch.Tensor:
    """AROUND Gemma4Router.forward. The diffusion model's routers lack routing."""
    routing = getattr(router, "routing", None)
    if routing is None or not routing.takes(x):
        return original(router, x)
    return routing.logits(x)


def _stands_down(ctx: Context) -> str | None:
    if ctx.model is not None and not ctx.model.is_moe:
        return "the model has no experts"
    if ctx.settings.router == "sglang":
        return "--gemma4-router sglang"
    if ctx.settings.cpu:
        interpreted = ctx.settings.cpu_attention == "triton"
        return None if interpreted else "a Triton kernel, and Triton's interpreter is not in use"
    row = row_of(ctx.gpu.capability) if ctx.gpu.is_target else None
    if row is None:
        return "for NVIDIA GPUs of compute capability 8.0, 8.6, 8.9 and 9.0"
    if ctx.settings.router == "auto" and row.prefer != "fused":
        why = "is faster" if row.measured else "was not compared with ours"
        return f"SGLang's router {why} on this GPU (--gemma4-router fused takes ours)"
    return None


def _retired() -> bool:
    from sglang.srt.models.gemma4_causal import Gemma4Router

    return "rmsnorm" in inspect.getsource(inspect.unwrap(Gemma4Router.forward))


PATCH = Patch(
    name="fused_router",
    theme="model",
    summary="MoE router: norm, projection and choice in one launch at decode sizes, in fp32",
    why=(
        "SGLang launches norm, projection and choice one after the other, with logits in the "
        "model's dtype between; its closure keeps the per-expert scale it was built with"
    ),
    upstream="sgl-project/sglang#26502 fused the choice alone",
    retire_when="Gemma4Router.forward calls a kernel that has the norm in it",
    retired=_retired,
    hooks=(
        Hook(f"{MODEL}.Gemma4DecoderLayer.__init__", "9e9975c60918", "after", _connect),
        Hook(f"{MODEL}.Gemma4Router.forward", "c9b809ff00a5", "around", _forward),
    ),
    relies_on=(
        Source(f"{MODEL}.Gemma4Router.__init__", "13bf946c5352"),
        Source(f"{MODEL}.Gemma4Router.fuse_scale", "f7ae349286c2"),
        Source("sglang.srt.layers.layernorm.Gemma4RMSNorm.__init__", "8cf0d6b2d12d"),
        Source(f"{MODEL}.Gemma4MoE.__init__", "a838410016cc"),
        Source(f"{MODEL}.Gemma4MoE.forward", "8edd4b19cc4e"),
        Source(f"{MODEL}.Gemma4DecoderLayer._next_stream", "67f3446b2642"),
        Source(f"{TOPK}.TopK.forward_cuda", "23323405c0ef"),
    ),
    stands_down=_stands_down,
)
