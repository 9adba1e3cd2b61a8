# SPDX-License-Identifier: Apache-2.0
"""Make global memory of CPU tensors; only what their shapes and strides cover is accessible."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import torch

from .memory import Extent, GlobalMemory, Report
from .values import Array, u8


def all_initialised(data: Array, address: int) -> Array:
    return np.ones(len(data), bool)


def memory_of(
    tensors: dict[str, torch.Tensor],
    report: Report,
    initialised: Callable[[Array, int], Array] = all_initialised,
) -> tuple[GlobalMemory, dict[str, np.generic]]:
    """Make global memory of tensors' storages, and return each tensor's address in it.

    initialised: bool per byte of a storage, given its bytes and its address on the CPU
    """
    extents: dict[int, Extent] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        base, size = storage.data_ptr(), storage.nbytes()
        if size == 0:
            raise ValueError(f"{name} has no memory")
        if base not in extents:
            data = bytes_of(tensor)
            extents[base] = Extent(name, data, np.zeros(size, bool), initialised(data, base))
        each = tensor.element_size()
        cover = np.lib.stride_tricks.as_strided(
            extents[base].valid[tensor.data_ptr() - base :],
            (*tensor.shape, each),
            (*(step * each for step in tensor.stride()), 1),
        )
        cover[...] = True
    memory = GlobalMemory(list(extents.values()), report)
    number = {base: i for i, base in enumerate(extents)}
    places = {}
    for name, tensor in tensors.items():
        base = tensor.untyped_storage().data_ptr()
        places[name] = u8(memory.address(number[base], tensor.data_ptr() - base))
    return memory, places


def bytes_of(tensor: torch.Tensor) -> Array:
    """View a tensor's storage as bytes."""
    storage = tensor.untyped_storage()
    size = storage.nbytes()
    if size == 0:
        return np.zeros(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(storage.data_ptr()))
