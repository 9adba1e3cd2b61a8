# SPDX-License-Identifier: Apache-2.0
"""Run LoRA on the CPU without pinned memory, which needs a CUDA driver."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch

MANAGER = "sglang.srt.lora.lora_manager.LoRAManager"
_FACTORIES = ("tensor", "zeros")


@contextlib.contextmanager
def _unpinned() -> Iterator[None]:
    """Ignore requests for pinned memory."""
    originals = {name: getattr(torch, name) for name in _FACTORIES}
    pin = torch.Tensor.pin_memory

    def plain(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(make)
        def without(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
            return make(*args, **kwargs)

        return without

    for name, make in originals.items():
        setattr(torch, name, plain(make))
    torch.Tensor.pin_memory = lambda self, *args, **kwargs: self
    try:
        yield
    finally:
        torch.Tensor.pin_memory = pin
        for name, make in originals.items():
            setattr(torch, name, make)


def _without_pinning(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """AROUND what a scheduler calls of the manager, in its only thread that uses torch."""
    with _unpinned():
        return original(*args, **kwargs)


def _stands_down(ctx: Context) -> str | None:
    return None if ctx.settings.cpu else "a GPU's driver pins memory"


def _retired() -> bool:
    from sglang.srt.lora import layers

    source = inspect.getsource(inspect.unwrap(layers.QKVParallelLinearWithLoRA.__init__))
    return "pin_memory=True" not in source


PATCH = Patch(
    name="cpu_lora",
    theme="cpu",
    summary="CPU reference: LoRA adapters work without a CUDA driver",
    why="LoRA's layers and batches ask for pinned memory, for which torch wants an accelerator",
    upstream="unreported",
    retire_when="QKVParallelLinearWithLoRA asks for pinned memory only where there is some",
    retired=_retired,
    hooks=(
        Hook(f"{MANAGER}.init_state", "2127bd8106c1", "around", _without_pinning),
        Hook(f"{MANAGER}._load_lora_adapter", "2358ccd84913", "around", _without_pinning),
        Hook(f"{MANAGER}.prepare_lora_batch", "75d832c03b74", "around", _without_pinning),
    ),
    stands_down=_stands_down,
)
