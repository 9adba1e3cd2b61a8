# SPDX-License-Identifier: Apache-2.0
"""Record which elements of a model are written while a checkpoint loads, and from which tensor.

Weight loaders differ by format, but each ends in operators that write to a parameter's memory. A
dispatch mode sees all of them. What it keeps is the place of each write, not its values.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# (size, stride) of the dimensions around a run of elements, outermost first.
Outer = tuple[tuple[int, int], ...]


class Writes(TorchDispatchMode):
    """Record the writes to a model's parameters and buffers within its `with` block.

    used: the checkpoint's tensors that were written somewhere.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        tensors = [*model.parameters(), *model.buffers()]
        self._memory = {key: _Memory() for tensor in tensors if (key := _storage(tensor))}
        self._arguments: dict[Any, tuple[int, ...]] = {}
        self._name: str | None = None
        self.used: set[str] = set()

    def named(self, weights: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Yield `weights`; what is written until the next is asked for belongs to the last."""
        for name, tensor in weights:
            self._name = name
            yield name, tensor
        self._name = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for index in self._written_arguments(func):
            if index < len(args) and isinstance(args[index], torch.Tensor):
                self._record(args[index])
        return result

    def _written_arguments(self, func: Any) -> tuple[int, ...]:
        if func not in self._arguments:
            written = (a.alias_info is not None and a.alias_info.is_write
                       for a in func._schema.arguments)  # fmt: skip
            self._arguments[func] = tuple(index for index, yes in enumerate(written) if yes)
        return self._arguments[func]

    def _record(self, view: torch.Tensor) -> None:
        memory = self._memory.get(_storage(view))
        if memory is not None and view.numel():
            memory.write(view, self._name)
            if self._name is not None:
                self.used.add(self._name)

    def written(self, tensor: torch.Tensor) -> int:
        """Return how many of a parameter's elements were written, all if its memory is new."""
        memory = self._memory.get(_storage(tensor))
        if memory is None:
            return tensor.numel()
        return min(tensor.numel(), memory.covered(tensor.storage_offset(), tensor.numel()))

    def writers(self, tensor: torch.Tensor) -> set[str]:
        """Return the tensors that were written to a parameter."""
        memory = self._memory.get(_storage(tensor))
        return memory.writers if memory else set()

    def written_twice(self, tensor: torch.Tensor) -> tuple[str, str] | None:
        """Return two tensors of the checkpoint that were written to the same elements."""
        memory = self._memory.get(_storage(tensor))
        return memory.twice if memory else None


class _Memory:
    """Hold the writes to the memory of one parameter."""

    def __init__(self) -> None:
        self._runs: dict[Outer, dict[tuple[int, int], str | None]] = collections.defaultdict(dict)
        self.writers: set[str] = set()
        self.twice: tuple[str, str] | None = None

    def write(self, view: torch.Tensor, name: str | None) -> None:
        outer, length = _layout(view)
        run = (view.storage_offset(), view.storage_offset() + length)
        before = self._runs[outer].setdefault(run, name)
        if name is not None:
            self.writers.add(name)
            if before is not None and before != name:
                self.twice = self.twice or (before, name)

    def covered(self, start: int, length: int) -> int:
        """Return how many elements from `start` on were written."""
        total = 0
        for outer, runs in self._runs.items():
            copies, end = 1, start
            for size, _ in outer:
                copies *= size
            for first, last in sorted(runs):
                first, last = max(first, end), min(last, start + length)
                total += copies * max(0, last - first)
                end = max(end, last)
        return total


def _storage(tensor: torch.Tensor) -> int:
    """Return an address that all views of a tensor share, 0 where there is no memory yet."""
    if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
        return 0
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # a tensor without storage
        return 0


def _layout(view: torch.Tensor) -> tuple[Outer, int]:
    """Return (what is around it, length) of a view's runs of neighbouring elements."""
    dims = sorted(
        ((stride, size) for size, stride in zip(view.shape, view.stride(), strict=True) if size > 1)
    )
    outer: list[tuple[int, int]] = []
    length = 1
    for stride, size in dims:
        if not outer and stride == length:
            length *= size
        else:
            outer.append((size, stride))
    return tuple(reversed(outer)), length
