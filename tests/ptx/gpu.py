# SPDX-License-Identifier: Apache-2.0
"""Run a module of PTX on the GPU, by CUDA's driver, and assemble one without a GPU."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from .toolkit import find


def assemble(text: str) -> None:
    """Translate PTX to machine code. Raises RuntimeError with ptxas's message."""
    (target,) = (line.split()[1] for line in text.splitlines() if line.startswith(".target"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "k.ptx")
        source.write_text(text)
        command = [find("ptxas"), f"-arch={target}", source, "-o", Path(folder, "k.cubin")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)


def run(text: str, arrays: tuple[np.ndarray, ...], grid: int, threads: int, shared: int) -> None:
    """Launch the module's kernel `k`; the arrays hold afterwards what it left in them."""
    torch.cuda.init()
    on_gpu = [torch.from_numpy(a.view(np.uint8).reshape(-1).copy()).cuda() for a in arrays]
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    driver = ctypes.CDLL("libcuda.so.1")
    _require(driver.cuModuleLoadData(ctypes.byref(module), text.encode()), "cuModuleLoadData")
    _require(
        driver.cuModuleGetFunction(ctypes.byref(function), module, b"k"), "cuModuleGetFunction"
    )
    pointers = [ctypes.c_uint64(tensor.data_ptr()) for tensor in on_gpu]
    addresses = (ctypes.c_void_p * len(pointers))(*(ctypes.addressof(p) for p in pointers))
    sizes = (grid, 1, 1, threads, 1, 1, shared)
    _require(driver.cuLaunchKernel(function, *sizes, None, addresses, None), "cuLaunchKernel")
    torch.cuda.synchronize()
    for array, tensor in zip(arrays, on_gpu, strict=True):
        array.view(np.uint8).reshape(-1)[:] = tensor.cpu().numpy()
    _require(driver.cuModuleUnload(module), "cuModuleUnload")


def _require(status: int, what: str) -> None:
    if status:
        raise RuntimeError(f"{what} returned {status}")
