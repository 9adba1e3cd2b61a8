# SPDX-License-Identifier: Apache-2.0
"""Detect the GPU and the CPU of this machine."""

from __future__ import annotations

import functools
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
# An idle card holds a few MiB of the driver's. A slice of a card (MIG) is far below the whole.
_IDLE_MIB, _DRIVERS_SHARE = 64, 1.08


@dataclass(frozen=True)
class Gpu:
    """Describe the accelerator that PyTorch sees: `vendor` is nvidia, amd, other or none."""

    vendor: str
    name: str = ""
    capability: tuple[int, int] = (0, 0)

    @property
    def is_target(self) -> bool:
        """Tell whether it is an NVIDIA GPU of compute capability 8.0 to 9.x, which we serve."""
        return self.vendor == "nvidia" and (8, 0) <= self.capability < (10, 0)

    def __str__(self) -> str:
        if self.vendor != "nvidia":
            return self.name or "no GPU"
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


NO_GPU = Gpu("none")


@functools.cache
def detect_gpu() -> Gpu:
    """Ask PyTorch for device 0; all devices of one server are assumed alike."""
    import torch

    if torch.cuda.is_available():
        if torch.version.hip is not None:
            return Gpu("amd", torch.cuda.get_device_name(0))
        return Gpu("nvidia", torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0))
    for name in ("xpu", "npu", "musa", "mps", "hpu"):
        module = getattr(torch, name, None)
        if module is not None and getattr(module, "is_available", lambda: False)():
            return Gpu("other", name)
    return NO_GPU


def processor() -> str:
    """Return the name of this machine's CPU."""
    lines = Path("/proc/cpuinfo")
    for line in lines.read_text().splitlines() if lines.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Memory:
    """Hold bytes of device 0: `total` as nvidia-smi reports them, `used` by other programs."""

    total: int
    used: int = 0

    @property
    def free(self) -> int:
        return self.total - self.used


@functools.cache
def gpu_memory() -> Memory:
    """Return device 0's memory as of the first call: the launcher asks before SGLang starts.

    Raises RuntimeError without a CUDA device.
    """
    return gpu_memory_now()


def gpu_memory_now() -> Memory:
    """Ask nvidia-smi, as SGLang does, or else PyTorch. Raises RuntimeError without a CUDA device.

    PyTorch reports less than nvidia-smi, because it leaves out what the driver keeps.
    """
    import torch

    usable = torch.cuda.get_device_properties(0).total_memory
    alike = [card for card in _nvidia_smi() if usable <= card.total < usable * _DRIVERS_SHARE]
    # One server's devices are assumed alike; the fullest of them decides.
    return min(alike, key=lambda card: card.free, default=Memory(usable))


def _nvidia_smi() -> list[Memory]:
    """List the memory of every card of this machine; empty if nvidia-smi does not answer."""
    query = ["--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            ["nvidia-smi", *query], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = re.findall(r"^(\d+), (\d+)$", done.stdout, re.MULTILINE)
    return [
        Memory(int(total) * MIB, int(used) * MIB if int(used) >= _IDLE_MIB else 0)
        for total, used in rows
    ]
