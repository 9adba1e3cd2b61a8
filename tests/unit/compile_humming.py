# SPDX-License-Identifier: Apache-2.0
"""Compile the Humming kernels of a benchmark's linear for a GPU that is not present.

    python -m tests.unit.compile_humming CAPABILITY N K TOKENS

The script replaces PyTorch's GPU, so it needs a process of its own. It prints the padded N and K,
then for each kernel the token counts that Humming uses it for.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace
from unittest import mock

import torch

from bench.kernels import providers, providers_humming

# One card per capability, from its data sheet: name, multiprocessors, GB/s, dense FP16 TFLOPS.
CARDS = {
    80: ("NVIDIA A100", 108, 2039.0, 312.0),
    86: ("NVIDIA GeForce RTX 3090", 82, 936.0, 142.0),
    90: ("NVIDIA H100", 132, 3352.0, 989.0),
}


def main(sm: int, n: int, k: int, tokens: int) -> None:
    from humming.config import ComputeConfig, LayerConfig, TuningConfig
    from humming.jit.runtime import KernelRuntime
    from humming.kernel.humming import HummingKernel
    from humming.layer import HummingMethod

    layer = torch.nn.Module()
    meta = providers_humming.described(layer, providers.draw(n, k, device="cpu"))
    given = {f.name: getattr(meta, f.name) for f in dataclasses.fields(LayerConfig) if f.init}
    known = {f.name for kind in (ComputeConfig, TuningConfig) for f in dataclasses.fields(kind)}
    served = []
    for least, most, config in HummingMethod.get_default_tuning_configs(layer):
        if least < tokens <= most:
            chosen = {name: value for name, value in config.items() if name in known}
            with (
                mock.patch.object(KernelRuntime, "current_context", staticmethod(lambda: 0)),
                mock.patch.object(KernelRuntime, "_ensure_cuda_context", staticmethod(int)),
                mock.patch.object(HummingKernel, "load_cubin", return_value=None),
            ):
                kernel = HummingKernel(**given, **chosen, gemm_type="dense")
            served.append([least, most, kernel.kernel_filename])
    print(json.dumps({"n": meta.shape_n, "k": meta.shape_k, "kernels": served}))


if __name__ == "__main__":
    sm, *sizes = map(int, sys.argv[1:])
    name, multiprocessors, bandwidth, tflops = CARDS[sm]
    properties = SimpleNamespace(
        major=sm // 10,
        minor=sm % 10,
        name=name,
        multi_processor_count=multiprocessors,
        L2_cache_size=50 << 20,
        total_memory=24 << 30,
        clock_rate=1_700_000,
    )
    from humming.utils import device

    device.calculate_gpu_bandwidth = lambda *_: bandwidth
    device.estimate_tensorcore_max_tops = lambda *_: tflops
    with mock.patch.multiple(
        torch.cuda,
        is_available=lambda: True,
        current_device=lambda: 0,
        get_device_properties=lambda *_: properties,
        get_device_capability=lambda *_: (properties.major, properties.minor),
        get_device_name=lambda *_: name,
    ):
        main(sm, *sizes)
