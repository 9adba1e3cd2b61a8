# SPDX-License-Identifier: Apache-2.0
"""Act as another SGLang plugin: a plain CPU platform that reports what a process holds.

Stock SGLang has no CPU path that starts here: its CPU engine needs sgl_kernel, every other device
vLLM's rotary embedding. This platform gives it only PyTorch's native operators and patches nothing.

`install` puts a copy where SGLang discovers it, with our package or without it. This module must
not import ours.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

DIST = "bystander-1.0.dist-info"
METADATA = "Metadata-Version: 2.1\nName: bystander\nVersion: 1.0\n"
ENTRY_POINTS = """
[sglang.srt.platforms]
plain_cpu = bystander:platform
[sglang.srt.plugins]
witness = bystander:watch
"""
REPORTS = "BYSTANDER_REPORTS"
OURS = "sglang_gemma4_ext"
ANSWER_SECONDS = 30


def install(folder: Path) -> Path:
    """Install this module as a distribution in `folder`, which then goes on PYTHONPATH."""
    (folder / DIST).mkdir(parents=True)
    (folder / DIST / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: bystander\nVersion: 1.0\n"
    )
    (folder / DIST / "entry_points.txt").write_text(ENTRY_POINTS)
    shutil.copy(__file__, folder / "bystander.py")
    return folder


def platform() -> str:
    return "bystander.PlainCpu"


def watch() -> None:
    signal.signal(signal.SIGUSR2, _testify)


def _testify(*args: Any) -> None:
    """Write what this process holds of our package, and every hook of any plugin."""
    from sglang.srt.arg_groups import resolution_hooks
    from sglang.srt.plugins.hook_registry import HookRegistry

    hooks = sorted({*HookRegistry._hooks, *HookRegistry._patched})
    found = {
        "modules": sorted(name for name in sys.modules if name.partition(".")[0] == OURS),
        "hooks": hooks + sorted(resolution_hooks._HOOKS),
        "environment": sorted(name for name in os.environ if "GEMMA4" in name),
    }
    out = Path(os.environ[REPORTS]) / f"{os.getpid()}.json"
    out.with_suffix(".part").write_text(json.dumps(found))
    out.with_suffix(".part").rename(out)


def ask(pid: int, reports: Path) -> dict[str, list[str]]:
    """Return what process `pid` of a running server holds.

    Raises TimeoutError without an answer.
    """
    os.kill(pid, signal.SIGUSR2)
    out = reports / f"{pid}.json"
    deadline = time.monotonic() + ANSWER_SECONDS
    while not out.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} did not answer")
        time.sleep(0.05)
    return json.loads(out.read_text())


def __getattr__(name: str) -> Any:
    """Make PlainCpu when SGLang asks for it; tests import this module without SGLang."""
    if name != "PlainCpu":
        raise AttributeError(name)
    from sglang.srt.platforms.cpu import CpuDeviceMixin
    from sglang.srt.platforms.device_mixin import PlatformEnum
    from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform

    class PlainCpu(CpuDeviceMixin, SRTPlatform):
        _enum = PlatformEnum.OOT
        device_name = "plain_cpu"
        capabilities = PlatformCapabilities(supports_triton=False)

        def get_default_attention_backend(self) -> str:
            return "torch_native"

        def is_pin_memory_available(self, device: Any = None) -> bool:
            return False

    return PlainCpu
