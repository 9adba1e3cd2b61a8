# SPDX-License-Identifier: Apache-2.0
"""What a patch may look at to decide whether it is needed: versions, GPU, model, settings."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass, field
from pathlib import Path

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.settings import Settings


@dataclass(frozen=True)
class Gpu:
    """The accelerator that PyTorch sees: `vendor` is nvidia, amd, other or none."""

    vendor: str
    name: str = ""
    capability: tuple[int, int] = (0, 0)

    @property
    def is_target(self) -> bool:
        """NVIDIA compute capability 8.0 to 9.x: the GPUs that this extension is for."""
        return self.vendor == "nvidia" and (8, 0) <= self.capability < (10, 0)

    def __str__(self) -> str:
        if self.vendor != "nvidia":
            return self.name or "no GPU"
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


@dataclass(frozen=True)
class Context:
    """One process's view of where it runs. `model` is None until a checkpoint is known."""

    settings: Settings = field(default_factory=Settings)
    model: ModelInfo | None = None
    gpu: Gpu = Gpu("none")
    sglang: str = ""

    @classmethod
    def here(cls, settings: Settings, model: ModelInfo | None = None) -> Context:
        return cls(settings, model, detect_gpu(), sglang_version())


def sglang_version() -> str:
    """The installed SGLang's version, or an empty string."""
    try:
        return importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def detect_gpu() -> Gpu:
    """Ask PyTorch for device 0; the devices of one server are taken to be alike."""
    import torch

    if torch.cuda.is_available():
        if torch.version.hip is not None:
            return Gpu("amd", torch.cuda.get_device_name(0))
        return Gpu("nvidia", torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0))
    for name in ("xpu", "npu", "musa", "mps", "hpu"):
        module = getattr(torch, name, None)
        if module is not None and getattr(module, "is_available", lambda: False)():
            return Gpu("other", name)
    return Gpu("none")


def processor() -> str:
    """The name of this machine's CPU."""
    lines = Path("/proc/cpuinfo")
    for line in lines.read_text().splitlines() if lines.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu_memory_bytes() -> int:
    """All of device 0's memory, in use or not. Raises RuntimeError without a CUDA device."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory
