# SPDX-License-Identifier: Apache-2.0
"""Keep the model's own sizes on the CPU reference.

On the CPU SGLang rounds heads and intermediate sizes up for its AMX kernels: to the ranks, and to
whole blocks of quantized weights. The reference runs PyTorch and Triton, which need neither. A GPU
keeps the sizes as well.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch

UPDATE = "sglang.srt.configs.update_config.adjust_config_with_unaligned_cpu_tp"


def _as_it_is(model_config: Any, load_config: Any, tp_size: int) -> Any:
    """REPLACE adjust_config_with_unaligned_cpu_tp."""
    return model_config


def _stands_down(ctx: Context) -> str | None:
    return None if ctx.settings.cpu else "SGLang pads for a CPU only"


def _retired() -> bool:
    from sglang.srt.model_executor.model_runner import ModelRunner

    source = inspect.getsource(inspect.unwrap(ModelRunner.load_model))
    return "adjust_config_with_unaligned_cpu_tp" not in source


PATCH = Patch(
    name="cpu_unpadded_sizes",
    theme="cpu",
    summary="CPU reference: heads and intermediate sizes are the model's own, as on a GPU",
    why="SGLang pads both on every CPU. Experts in FP8 blocks then no longer fit their checkpoint, "
    "and KV heads that the ranks do not divide stop the server",
    upstream="unreported",
    retire_when="ModelRunner.load_model pads for AMX kernels only",
    retired=_retired,
    hooks=(Hook(UPDATE, "fcbd518636d1", "replace", _as_it_is),),
    stands_down=_stands_down,
)
