# SPDX-License-Identifier: Apache-2.0
"""Compile and launch Triton kernels through the real JIT without a GPU; launches do nothing.

Specialization, constants and grids are Triton's own. Works with Triton 3.6 and later.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver as triton_driver

from bench.kernels.cross_compile import MAX_SHARED_BYTES


class Launch(NamedTuple):
    """Hold a kernel's name and its grid, three sizes."""

    kernel: str
    grid: tuple[int, int, int]


class StubGpu(DriverBase):
    """Be Triton's active driver inside a `with`; tensors stay on the CPU.

    launches: the launches, in order. loaded: the kernels whose machine code was loaded.
    Raises Triton's own errors, for instance for code that does not compile or too much shared
    memory.
    """

    def __init__(self, capability: int):
        self.capability = capability
        self.launches: list[Any] = []
        self.loaded: list[str] = []
        self.utils = self
        self.launcher_cls = functools.partial(_Launcher, self)

    def __enter__(self):
        self._before = triton_driver._active
        triton_driver.set_active(self)
        return self

    def __exit__(self, *_: object) -> None:
        triton_driver._active = self._before

    def launch(self, function: Any, metadata: Any, signature: Any, args: tuple, grid: tuple):
        """Record a launch. function: the first value that `load_binary` returned."""
        self.launches.append(Launch(metadata.name, grid))

    # What Triton calls on a driver, and on its `utils`.

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": MAX_SHARED_BYTES[self.capability], "multiprocessor_count": 8}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple:
        """Return module, function, registers, spills and the most threads of a block."""
        self.loaded.append(name)
        return name, name, 0, 0, 1024

    def unload_module(self, module: object) -> None:
        pass

    @staticmethod
    def is_active() -> bool:
        return False

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError(ty)

    def get_benchmarker(self):
        raise NotImplementedError("this GPU takes no time")


class _Launcher:
    """Stand in for the launcher that Triton makes of a compiled kernel."""

    def __init__(self, gpu: StubGpu, source: Any, metadata: Any):
        self.signature, self.metadata = source.signature, metadata

    def __call__(self, x, y, z, stream, function, packed, metadata, enter, leave, *args) -> None:
        # Triton caches compiled kernels, so the GPU may differ from the one that compiled it.
        gpu = triton_driver.active
        gpu.launch(function, self.metadata, self.signature, args, (x, y, z))
