# SPDX-License-Identifier: Apache-2.0
"""Apply Gemma's tanh gelu in experts on SGLang's Triton runner.

`Gemma4MoE` names its activation "gelu". The Triton runner, which takes BF16 and FP8 experts, knows
"gelu" as the erf form and "gelu_tanh" as the tanh form. The dense layers, the CPU's experts and the
NVFP4 experts apply tanh, as `hidden_activation` in the checkpoint says. Under torch.compile a
single token leaves the runner for `fused_moe_forward_native`, which has only the erf form.

The runners `humming` and `triton_kernel` have only the erf form, too. They are refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

RUNNER = "sglang.srt.layers.moe.moe_runner"
SEQUENCE = f"{RUNNER}.triton_utils.fused_moe._fused_moe_kernel_sequence"
UNQUANTIZED = "sglang.srt.layers.quantization.unquant.UnquantizedFusedMoEMethod"
MODEL = "sglang.srt.models.gemma4_causal"
# Values of --moe-runner-backend.
ERF_ONLY = ("humming", "triton_kernel")


def _refuse_erf(self: Any, *args: Any, **kwargs: Any) -> None:
    """BEFORE Gemma4MoE.__init__. Raises ValueError under a runner without tanh gelu."""
    from sglang.srt.layers.moe.utils import get_moe_runner_backend

    backend = get_moe_runner_backend().value
    if backend in ERF_ONLY:
        raise ValueError(
            f"--moe-runner-backend {backend} applies the erf gelu to experts, and Gemma 4's gelu "
            "is tanh: leave it out, or use triton"
        )


def _tanh(original: Callable[..., Any], *args: Any, activation: str, **kwargs: Any) -> Any:
    """AROUND the runner's sequence of matmul, activation, matmul: "gelu" becomes "gelu_tanh"."""
    chosen = "gelu_tanh" if activation == "gelu" else activation
    return original(*args, activation=chosen, **kwargs)


def _stay_on_the_runner(self: Any, num_tokens: int) -> None:
    """REPLACE UnquantizedFusedMoEMethod._torch_compile_forward: None keeps the Triton runner."""


def _retired() -> bool:
    from sglang.srt.models.gemma4_causal import Gemma4MoE

    default = inspect.signature(inspect.unwrap(Gemma4MoE.__init__)).parameters["activation"].default
    return default != "gelu"


def _stands_down(ctx: Context) -> str | None:
    if ctx.model is not None and not ctx.model.is_moe:
        return "the model has no experts"
    return "the CPU's experts apply tanh gelu" if ctx.settings.cpu else None


PATCH = Patch(
    name="experts_tanh_gelu",
    theme="model",
    summary="BF16 and FP8 experts apply Gemma's tanh gelu on a GPU, not the erf form",
    why='Gemma4MoE passes "gelu", which the Triton runner takes for the erf form; no flag or '
    "config field reaches it",
    upstream="unreported",
    retire_when='Gemma4MoE names another activation than "gelu"',
    retired=_retired,
    hooks=(
        Hook(f"{MODEL}.Gemma4MoE.__init__", "a838410016cc", "before", _refuse_erf),
        Hook(SEQUENCE, "1033ffaa70a2", "around", _tanh),
        Hook(
            f"{UNQUANTIZED}._torch_compile_forward", "7531ac49f6fe", "replace", _stay_on_the_runner
        ),
    ),
    relies_on=(
        Source(f"{RUNNER}.humming.HummingRunnerCore.apply_activation", "96c814cd0c35"),
        Source("sglang.srt.layers.moe.fused_moe_native.fused_moe_forward_native", "e554138ca5fc"),
        Source(f"{RUNNER}.triton.TritonRunnerCore.run", "aec60a336ba7"),
        Source(f"{RUNNER}.triton_utils.fused_moe.fused_experts_impl", "82e6d73f6321"),
    ),
    stands_down=_stands_down,
)
