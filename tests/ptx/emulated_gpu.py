# SPDX-License-Identifier: Apache-2.0
"""Let Triton compile for a GPU, and execute the PTX on the CPU.

    with EmulatedGpu(86) as gpu:
        out = my_wrapper(cpu_tensors)
    assert not gpu.findings

Host functions run unchanged, on CPU tensors. A kernel may access only the bytes that the shapes and
strides of its arguments cover. The result of `torch.empty` is uninitialised until a kernel writes
it or a host operation changes any of its bytes.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from triton import knobs

from .machine import Launch, Result, run
from .parse import SIZES, parse
from .stub_gpu import StubGpu
from .tensor_memory import bytes_of, memory_of
from .translate import Program, translate
from .values import u4, u8

# A layout of Triton may hold a value in several threads, and each of them stores it.
HARMLESS = {"same value written twice", "same global value written twice"}
WIDTHS = {"i1": 1, "i8": 1, "u8": 1, "i16": 2, "u16": 2, "i32": 4, "u32": 4, "i64": 8, "u64": 8}


class Empty(NamedTuple):
    """Hold a tensor from torch.empty, its initial bytes, and which of them kernels have written."""

    tensor: torch.Tensor
    poison: np.ndarray
    written: np.ndarray


class Executed(NamedTuple):
    """Hold a launch: the kernel's name, its grid, findings, counts, and its PTX."""

    kernel: str
    grid: tuple[int, int, int]
    result: Result
    ptx: str


@functools.lru_cache(maxsize=256)
def _program(ptx: str) -> Program:
    return translate(parse(ptx))


class EmulatedGpu(StubGpu):
    """Be Triton's active driver inside a `with`; launches are `Executed`."""

    def __init__(self, capability: int, change: Callable[[str], str] | None = None, **options: Any):
        """Set how launches run.

        change: returns changed PTX for a launch's PTX. options: of `machine.run`.
        """
        super().__init__(capability)
        self.change, self.options = change, options
        self._ptx = ""
        self._empty: dict[int, Empty] = {}

    @property
    def findings(self) -> dict[str, Counter]:
        """Return the findings by kind: each description and its count."""
        found: dict[str, Counter] = {}
        for launch in self.launches:
            for kind, seen in launch.result.findings.items():
                for what, count in seen.items() if kind not in HARMLESS else ():
                    found.setdefault(kind, Counter())[f"{launch.kernel}: {what}"] += count
        return found

    def __enter__(self):
        super().__enter__()
        self._hook = knobs.runtime.kernel_load_start_hook
        knobs.runtime.kernel_load_start_hook = self._loading
        self._torch_empty = torch.empty
        torch.empty = self._poisoned
        return self

    def __exit__(self, *exception: object) -> None:
        torch.empty = self._torch_empty
        knobs.runtime.kernel_load_start_hook = self._hook
        self._empty.clear()
        super().__exit__(*exception)

    def _poisoned(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Allocate as torch.empty, filled with NaN or -77, and record it as uninitialised."""
        tensor = self._torch_empty(*args, **kwargs)
        tensor.fill_(torch.nan if tensor.is_floating_point() else -77)
        poison = bytes_of(tensor).copy()
        at = tensor.untyped_storage().data_ptr()
        self._empty[at] = Empty(tensor, poison, np.zeros(len(poison), bool))
        return tensor

    def _initialised(self, data: np.ndarray, address: int) -> np.ndarray:
        """Return a bool per byte of a storage; the emulator updates it when kernels write."""
        empty = self._empty.get(address)
        if empty is None:
            return np.ones(len(data), bool)
        if ((data != empty.poison) & ~empty.written).any():  # a host operation filled it
            empty.written[:] = True
        return empty.written

    def _loading(self, module, function, name, files: dict[str, str], digest) -> None:
        path = next(path for file, path in files.items() if file.endswith(".ptx"))
        self._ptx = Path(path).read_text()

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple:
        """Return the PTX in place of the function."""
        return self._ptx, self._ptx, *super().load_binary(name, binary, shared, device)[2:]

    def launch(self, ptx: str, metadata, signature: dict[str, str], args: tuple, grid) -> None:
        """Execute a launch. Raises PtxError on an instruction that the emulator does not know."""
        program = _program(self.change(ptx) if self.change else ptx)
        kernel, result = program.kernel, Result()
        given = {
            name: (kind, value)
            for (name, kind), value in zip(signature.items(), args, strict=True)
            if kind != "constexpr"
        }
        tensors = {name: value for name, (kind, value) in given.items() if kind[0] == "*"}
        memory, places = memory_of(tensors, result.report, self._initialised)
        values = [
            places[name] if kind[0] == "*" else _number(kind, value)
            for name, (kind, value) in given.items()
        ]
        # The rest is scratch memory, which these kernels do not have.
        values += [u8(0)] * (len(kernel.parameters) - len(values))
        parameters = dict(zip(kernel.parameters, values, strict=True))
        for name, value in parameters.items():
            if SIZES[kernel.parameters[name]] != value.dtype.itemsize:
                raise TypeError(f"{name} is {kernel.parameters[name]}, given {value!r}")
        for register, where in program.undefined.items():
            result.report("register perhaps read before it is written", f"{register}: {where}")
        for register, where in program.misused.items():
            result.report("register of a wgmma misused", f"{register}: {where}")
        threads = 32 * metadata.num_warps
        launch = Launch(program, grid, threads, metadata.shared, parameters, memory, result)
        run(launch, **self.options)
        memory.copy_back()
        self.launches.append(Executed(kernel.name, grid, result, ptx))


def _number(kind: str, value: Any) -> np.generic:
    """Return the bits of a scalar argument."""
    if kind in ("fp32", "f32"):
        return np.float32(value).view(u4)
    size = WIDTHS[kind]
    return np.array(int(value) % (1 << 8 * size), dtype="u8").astype(f"u{size}")[()]
