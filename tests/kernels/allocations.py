# SPDX-License-Identifier: Apache-2.0
"""Watch what PyTorch's operators allocate, inside our own operators too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Call note(op, tensor) for each result in memory of its own.

    The operators of `opened`, by name, are watched inside; others count as a whole.
    """

    def __init__(
        self, note: Callable[[str, torch.Tensor], None], opened: dict[str, Callable[..., Any]]
    ):
        super().__init__()
        self.note, self.opened = note, opened

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.name(), kwargs or {}
        if name in self.opened:
            with self:
                out = self.opened[name](*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        given = {_memory(t) for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        for tensor in tree_leaves(out):
            if torch.is_tensor(tensor) and _memory(tensor) not in given:
                self.note(name, tensor)
        return out


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def our_operators() -> dict[str, Callable[..., Any]]:
    """Return what the fused NVFP4 operators run, by name."""

    from sglang_gemma4_ext.patches.weights import _ops

    return {
        f"{_ops.NAMESPACE}::nvfp4_linear": _ops._linear,
        f"{_ops.NAMESPACE}::nvfp4_experts": _ops._experts,
        f"{_ops.NAMESPACE}::int4_linear": _ops._int4_linear,
        f"{_ops.NAMESPACE}::int4_experts": _ops._int4_experts,
    }
