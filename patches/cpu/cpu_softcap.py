# SPDX-License-Identifier: Apache-2.0
"""Apply the final logit soft-cap in PyTorch where its Triton kernel cannot run.

The kernel calls libdevice's tanh, for which Triton's interpreter returns None. Without the
interpreter a CPU has no Triton at all. Every real Gemma 4 caps its logits at 30.
"""

from __future__ import annotations

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

SOFTCAP = "sglang.kernels.ops.activation.softcap"


def _softcap_logits(
    full_logits: torch.Tensor, final_logit_softcapping: float | None, output=None
) -> torch.Tensor:
    """REPLACE _softcap_logits: cap * tanh(logits / cap), in place or into a fp32 `output`.

    full_logits: any float dtype, any shape; output: fp32 of the same shape. fp32 inside.
    """
    target = full_logits if output is None else output
    logits = full_logits.float()
    if final_logit_softcapping is not None:
        logits = torch.tanh(logits / final_logit_softcapping) * final_logit_softcapping
    return target.copy_(logits)


def _stands_down(ctx: Context) -> str | None:
    return None if ctx.settings.cpu else "a GPU runs the Triton kernel"


def _retired() -> bool:
    import inspect

    from sglang.srt.layers import logits_processor

    # Upstream has a PyTorch branch, but for its own CPU engine and NPUs only.
    return "is_out_of_tree" in inspect.getsource(logits_processor)


PATCH = Patch(
    name="cpu_softcap",
    theme="cpu",
    summary="CPU reference: the final logit soft-cap runs in PyTorch",
    why="the logits processor takes PyTorch's tanh only on SGLang's own CPU engine and on NPUs",
    upstream="unreported",
    retire_when="the logits processor takes the PyTorch branch on out-of-tree platforms",
    retired=_retired,
    hooks=(Hook(f"{SOFTCAP}._softcap_logits", "cf3970593ea9", "replace", _softcap_logits),),
    relies_on=(Source(f"{SOFTCAP}.softcap_inplace_logits", "88ff25487cca"),),
    stands_down=_stands_down,
)
