# SPDX-License-Identifier: Apache-2.0
"""Run Humming on CPU tensors: its own launches, with its kernels as nvcc's PTX in the emulator.

Humming's operators exist for CUDA tensors. `emulated(sm)` gives them an implementation for CPU
tensors. It repeats csrc/launcher/launcher.cpp, which picks the kernel by tokens and its arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import math
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from .cuda_kernels import CudaKernel, Structure, kernels_of
from .machine import Result
from .toolkit import find

# Few multiprocessors, so that thread blocks share an output and wait for each other.
PROCESSORS = 6
# The compiler's headers and the installed ones may be of two minor versions.
MIXED_HEADERS = "-DCCCL_DISABLE_CTK_COMPATIBILITY_CHECK"


@dataclass
class Emulated:
    """Collect what the launches did. launched: the tiles and the grid of each matmul"""

    findings: dict[str, Any] = field(default_factory=dict)
    launched: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    def note(self, result: Result) -> None:
        for kind, found in result.findings.items():
            self.findings.setdefault(kind, found).update(found)


@contextlib.contextmanager
def emulated(sm: int) -> Iterator[Emulated]:
    """Let Humming's operators for conversion and matmul take CPU tensors, as on a GPU of `sm`."""
    properties = SimpleNamespace(
        major=sm // 10,
        minor=sm % 10,
        name="emulated",
        multi_processor_count=PROCESSORS,
        L2_cache_size=6 << 20,
        total_memory=24 << 30,
        clock_rate=1_700_000,
    )
    done = Emulated()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(
            mock.patch.multiple(
                torch.cuda,
                is_available=lambda: True,
                current_device=lambda: 0,
                get_device_properties=lambda *_: properties,
                get_device_capability=lambda *_: (properties.major, properties.minor),
                get_device_name=lambda *_: properties.name,
            )
        )
        from humming.jit.runtime import KernelRuntime
        from humming.kernel.humming import HummingKernel
        from humming.utils import device

        enter(mock.patch.object(device, "calculate_gpu_bandwidth", return_value=936.0))
        enter(mock.patch.object(device, "estimate_tensorcore_max_tops", return_value=142.0))
        enter(mock.patch.object(KernelRuntime, "_instances", {}))
        enter(mock.patch.object(KernelRuntime, "current_context", return_value=0))
        enter(mock.patch.object(KernelRuntime, "prepare", return_value=None))
        enter(mock.patch.object(HummingKernel, "prepare", return_value=None))
        enter(mock.patch.object(HummingKernel, "prepare_kernels", return_value=None))
        library = torch.library.Library("humming", "FRAGMENT")
        stack.callback(library._destroy)
        library.impl("repack_weight", functools.partial(_repack, done, sm), "CPU")
        library.impl("unpack_weight", functools.partial(_unpack, done, sm), "CPU")
        library.impl("humming_gemm", functools.partial(_gemm, done, sm), "CPU")
        yield done


@functools.cache
def _compiled(code: str, instance: str, sm: int) -> dict[str, str]:
    """Compile a kernel's source by nvcc with Humming's flags, to PTX."""
    from humming.jit.compiler import NVCCCompiler

    target = f"{sm}a" if sm >= 90 else str(sm)
    skipped = re.compile("-gencode|-cubin|--ptxas")
    flags = [flag for flag in NVCCCompiler.get_flags(target) if not skipped.match(flag)]
    if instance is not None:
        code += f"\nauto kernel = reinterpret_cast<void*>(&{instance});\n"
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "kernel.cu"), Path(folder, "kernel.ptx")
        source.write_text(code)
        command = [find("nvcc"), "-ptx", f"-arch=compute_{target}", MIXED_HEADERS, *flags]
        done = subprocess.run(
            [*command, source, "-o", out], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        return kernels_of(out.read_text())


@functools.cache
def _kernel(code: str, instance: str, sm: int, part_of_name: str) -> CudaKernel:
    return CudaKernel(_compiled(code, instance, sm), part_of_name)


def _constant(code: dict[str, str] | str, name: str) -> int:
    """Read a constant that a module exports for its launcher."""
    return int(re.search(rf"\b{name} = (\d+)", code)[1])


def _repack(
    done: Emulated,
    sm: int,
    inputs: torch.Tensor,
    weight_bits: int,
    activation_bits: int,
    is_weight_packed: bool,
    should_preprocess_for_int2fp: bool = False,
    should_preprocess_with_zp: bool = False,
    use_wgmma: bool = False,
    use_fused_e8m0_scale: bool = False,
    interleave_mode: int = 3,
    group_size_zp: int = 0,
    padded_shape_n: int | None = None,
    padded_shape_k: int | None = None,
    zero_point: torch.Tensor | None = None,
    use_packed_k_layout: bool = False,
) -> torch.Tensor:
    from humming.kernel.repack_weight import RepackWeightKernel

    assert is_weight_packed and not use_packed_k_layout
    kernel = RepackWeightKernel(
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        is_weight_packed=is_weight_packed,
        should_preprocess_for_int2fp=should_preprocess_for_int2fp,
        should_preprocess_with_zp=should_preprocess_with_zp,
        use_wgmma=use_wgmma,
        use_fused_e8m0_scale=use_fused_e8m0_scale,
        group_size_zp=group_size_zp,
        use_packed_k_layout=use_packed_k_layout,
    )
    *experts, n, words = inputs.shape
    k, pack = words * 32 // weight_bits, 256 // activation_bits
    outputs = torch.zeros(*experts, k // pack, n * pack * weight_bits // 32, dtype=torch.int32)
    run = _kernel(kernel.code, kernel.kernel_expr, sm, "weight_repack_nk")
    sizes = (n, k, padded_shape_n or n, padded_shape_k or k, interleave_mode)
    grid = (math.ceil(n / 64), math.ceil(k / 64), math.prod(experts))
    given = zero_point if should_preprocess_with_zp else None
    done.note(run.launch(grid, (32, 1, 1), inputs.contiguous(), outputs, given, *sizes))
    return outputs


def _unpack(done: Emulated, sm: int, inputs: torch.Tensor, num_bits: int) -> torch.Tensor:
    from humming.kernel.unpack_weight import UnpackWeightKernel

    kernel = UnpackWeightKernel(num_bits=num_bits)
    *lead, words = inputs.shape
    outputs = torch.zeros(*lead, words // num_bits * 32, dtype=torch.int32)
    run = _kernel(kernel.code, kernel.kernel_expr, sm, "unpack_weight")
    grid = (math.ceil(outputs.nelement() / 1024), 1, 1)
    done.note(run.launch(grid, (32, 1, 1), inputs, outputs, outputs.nelement()))
    return outputs


def _gemm(
    done: Emulated,
    sm: int,
    *,
    layer_config: str,
    inputs: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    weight_scale_2: torch.Tensor | None = None,
    compute_config: str | None = None,
    tuning_config: str | None = None,
    input_scale: torch.Tensor | None = None,
    zero_point: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    outputs: torch.Tensor | None = None,
    sorted_ids: torch.Tensor | None = None,
    expert_ids: torch.Tensor | None = None,
    num_tokens_padded: torch.Tensor | None = None,
    expert_layout: torch.Tensor | None = None,
    locks: torch.Tensor | None = None,
    top_k: int = 1,
    valid_shape_m: int = 0,
) -> torch.Tensor:
    from humming.config import LayerConfig
    from humming.kernel.humming import HummingKernel
    from humming.tune import get_heuristics_config

    layer, compute = json.loads(layer_config), json.loads(compute_config or "{}")
    layer.pop("sublayer_name", None)
    tuned = json.loads(tuning_config or "null")
    tuned = tuned or get_heuristics_config(LayerConfig(**layer), **compute)
    indexed = compute["gemm_type"] == "indexed"
    tokens = valid_shape_m or len(inputs) * (top_k if indexed else 1)
    config = next(dict(c) for least, most, c in tuned if least < tokens <= most)
    processors = config.pop("num_sms", 0) or PROCESSORS
    kernel = HummingKernel(**layer | compute | config)
    assert not (kernel.use_tma or kernel.use_warp_spec), "the emulator has no TMA"
    ptx = _compiled(kernel.code, kernel.kernel_expr, sm)
    rows = layer["shape_n"] - layer.get("pad_shape_n", 0)
    if outputs is None:
        count = len(inputs) * (top_k if indexed else 1)
        outputs = torch.full((count, rows), torch.nan, dtype=inputs.dtype)
    grid = processors * kernel.num_ctas_per_sm
    done.launched.append((tuple(kernel.block_shape), grid))
    run = _kernel(kernel.code, kernel.kernel_expr, sm, "humming")
    tensors = (inputs.contiguous(), weight, outputs, input_scale, weight_scale)
    tensors += (zero_point, bias, weight_scale_2)
    result = run.launch(
        (grid, 1, 1),
        (kernel.num_threads, 1, 1),
        *map(_pointer, tensors),
        sorted_ids,
        expert_ids,
        num_tokens_padded,
        expert_layout,
        None,
        locks,
        len(inputs),
        top_k,
        0,
        shared=shared_bytes(ptx),
        batch=grid,
        schedule="random",
    )
    done.note(result)
    return outputs


def _pointer(tensor: torch.Tensor | None) -> Structure:
    """Give a pointer where Humming's kernels may have a descriptor of TMA."""
    return [(ctypes.c_uint64, tensor)]


def shared_bytes(ptx: dict[str, str]) -> int:
    """Return the shared memory of a module's kernel: the constant SMEM_SIZE, as its launcher."""
    (text,) = ptx.values()
    return _constant(text, "SMEM_SIZE")
