# SPDX-License-Identifier: Apache-2.0
"""Compile CUDA kernels of SGLang's JIT folder to PTX, and run them in the emulator."""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sglang
import torch
import tvm_ffi.libinfo

from .lanes import WARP
from .machine import Launch, Result, run
from .parse import SIZES, PtxError, parse
from .tensor_memory import memory_of
from .toolkit import find
from .translate import Program, translate
from .values import u1, u4, u8

JIT = Path(sglang.__file__).parent / "kernels" / "jit"
# What SGLang's own JIT passes: `get_default_target_flags` of its arch.py.
FLAGS = ("-std=c++20", "-O3", "--expt-relaxed-constexpr")


def compile_module(file: str, sm: int, instances: str = "", *options: str) -> dict[str, str]:
    """Compile a .cuh of SGLang's; return the PTX of each kernel by its mangled name.

    instances: explicit instantiations of its templates
    """
    includes = [f"-I{path}" for path in (JIT / "include", *tvm_ffi.libinfo.include_paths())]
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "module.cu"), Path(folder, "module.ptx")
        source.write_text(f'#include "{JIT / "csrc" / file}"\n{instances}')
        target = [f"-arch=compute_{sm}", f"-DSGL_CUDA_ARCH={sm}0"]
        command = [find("nvcc"), "-ptx", *FLAGS, *target, *options, *includes, source, "-o", out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        return kernels_of(out.read_text())


def kernels_of(module: str) -> dict[str, str]:
    """Cut a module to one of a single kernel for each, with the module's own variables."""
    starts = [match.start() for match in re.finditer(r"^\.visible \.entry", module, re.MULTILINE)]
    ends = [*starts[1:], len(module)]
    variables = "".join(
        re.findall(r"^\.(?:global|const|extern \.shared)[^\n]*\n", module, re.MULTILINE)
    )
    pieces = [variables + module[start:end] for start, end in zip(starts, ends, strict=True)]
    return {re.search(r"\.entry (\w+)", piece)[1]: piece for piece in pieces}


# The fields of a structure, in order: a C type and a value. A pointer's value is a tensor, a
# tensor and an offset in bytes, or None.
Structure = list[tuple[type, object]]


class CudaKernel:
    """Run a kernel on CPU tensors.

    parameters of a launch: a tensor for a pointer, an int, or a Structure
    """

    def __init__(self, module: dict[str, str], part_of_name: str):
        (text,) = (ptx for name, ptx in module.items() if part_of_name in name)
        self.program: Program = translate(parse(text))

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        *parameters: object,
        shared: int = 0,
        **order: Any,
    ) -> Result:
        """Launch the kernel, and return the findings.

        shared: bytes that the launch adds, for an extern array. order: arguments of `run`
        """
        result, kernel = Result(), self.program.kernel
        tensors = {f"{i}": t for i, t in enumerate(_tensors(parameters))}
        memory, places = memory_of(tensors, result.report)
        address = {id(tensor): places[name] for name, tensor in tensors.items()}
        values = {
            name: _value(kernel.parameters[name], parameter, address)
            for name, parameter in zip(kernel.parameters, parameters, strict=True)
        }
        for register, where in self.program.undefined.items():
            result.report("register perhaps read before it is written", f"{register}: {where}")
        threads = -(-block[0] * block[1] * block[2] // WARP) * WARP
        shared += kernel.shared_bytes
        run(Launch(self.program, grid, threads, shared, values, memory, result, block), **order)
        memory.copy_back()
        return result


def _tensors(parameters: tuple[object, ...]) -> list[torch.Tensor]:
    found = []
    for parameter in parameters:
        fields = [value for _, value in parameter] if isinstance(parameter, list) else [parameter]
        for value in fields:
            tensor = value[0] if isinstance(value, tuple) else value
            if isinstance(tensor, torch.Tensor):
                found.append(tensor)
    return found


def _value(kind: str, parameter: object, address: dict[int, np.generic]) -> np.generic | np.ndarray:
    if isinstance(parameter, list):
        names = [(f"f{i}", kind) for i, (kind, _) in enumerate(parameter)]
        made = type("Made", (ctypes.Structure,), {"_fields_": names})()
        for i, (_, value) in enumerate(parameter):
            setattr(made, f"f{i}", _pointer(value, address))
        return np.frombuffer(bytes(made), np.uint8)
    make = {"u64": u8, "u32": u4, "u8": u1}.get(kind)
    if make is None:
        raise PtxError(f"unknown kind of parameter: {kind}")
    return make(_pointer(parameter, address) % (1 << 8 * SIZES[kind]))


def _pointer(value: object, address: dict[int, np.generic]) -> int | float:
    tensor, offset = value if isinstance(value, tuple) else (value, 0)
    if isinstance(tensor, torch.Tensor):
        return (int(address[id(tensor)]) + offset) % (1 << 64)
    return 0 if tensor is None else tensor
