# SPDX-License-Identifier: Apache-2.0
"""Give tokens of the multimodal classes positions from zero, as transformers does.

`Gemma4ForConditionalGeneration.forward` adds one to every position. Attention depends only on
differences of positions, but the angles of p and p + 1 round differently. Therefore
log-probabilities drift from transformers' as the position grows. The last position that the context
admits also leaves the table of angles.

The patch passes the forward a copy that is one lower. SGLang's addition then yields the position
itself, in place or not. The caller's buffer keeps the values that a CUDA graph replays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.checkpoint.model_family import MULTIMODAL_ARCHITECTURES
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch

FORWARD = "sglang.srt.models.gemma4_mm.Gemma4ForConditionalGeneration.forward"


def _one_lower(
    original: Callable[..., Any], self: Any, input_ids: Any, positions: Any, *args: Any, **kw: Any
) -> Any:
    """AROUND forward. positions: int64 [T], counted from zero, left unchanged."""
    return original(self, input_ids, positions - 1, *args, **kw)


def _stands_down(ctx: Context) -> str | None:
    if ctx.model is None or ctx.model.architecture in MULTIMODAL_ARCHITECTURES:
        return None
    return "the text class counts from zero"


def _retired() -> bool:
    from sglang.srt.models.gemma4_mm import Gemma4ForConditionalGeneration

    return "positions += 1" not in inspect.getsource(
        inspect.unwrap(Gemma4ForConditionalGeneration.forward)
    )


PATCH = Patch(
    name="positions_from_zero",
    theme="model",
    summary="Positions count from zero in the multimodal classes, as in transformers",
    why="Gemma4ForConditionalGeneration.forward adds one to the positions that it is given; its "
    "environment variable chooses only whether the caller's buffer changes",
    upstream="unreported",
    retire_when="Gemma4ForConditionalGeneration.forward leaves its positions alone",
    retired=_retired,
    hooks=(Hook(FORWARD, "a6bd6d064e9d", "around", _one_lower),),
    stands_down=_stands_down,
)
