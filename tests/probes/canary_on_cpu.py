# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's --kv-canary on a CPU, as a test's plugin of SGLang.

The canary records each KV slot's token, position, predecessor and a hash of its bytes. It compares
them with every slot that a forward reads. A slot freed, moved or overwritten under a request is
found at the next token.

SGLang 0.5.23 has its kernels in PyTorch for devices without CUDA, but does not start there. Its
counters reach the host over a side stream, an event and pinned memory
(`torch.cpu.Stream(device=...)` is a TypeError), and a Triton kernel asserts the order of its calls.
On a CPU the counters are on the host already, and the order is compared in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.probes.plugins import environment_with

INSTALL = "sglang.srt.kv_canary.api.install_canary"
# A violation ends the server. The hash covers a slot's first 16 bytes, one by one in PyTorch.
FLAGS = (
    "--kv-canary", "raise", "--kv-canary-real-data", "partial", "--kv-canary-sweep-interval", "50",
)  # fmt: skip


def installed(folder: Path) -> dict[str, str]:
    """Return the environment that a server with FLAGS needs."""
    # Otherwise SGLang's Gemma 4 adds 1 to the positions between the canary's two comparisons.
    env = {"SGLANG_GEMMA_OUT_OF_PLACE_POSITION_MUTATION": "1"}
    return env | environment_with(folder, __name__)


def activate() -> None:
    """Be the entry point `sglang.srt.plugins`."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(INSTALL, _install_on_cpu, HookType.AROUND)


def _install_on_cpu(original: Callable[..., Any], **arguments: Any) -> Any:
    # An assistant reads the target's keys and writes none. Its worker never opens the canary's
    # bracket
    # around a forward, which raises AssertionError.
    if arguments["model_runner"].is_draft_worker:
        return None
    from sglang.srt.kv_canary.runner import canary_manager
    from sglang.srt.kv_canary.runner.future_tensor import FutureTensors
    from sglang.srt.utils.phase_checker import SimplePhaseChecker

    canary_manager.create_device_stream = lambda device: None
    FutureTensors.device_to_host = staticmethod(_copied)
    SimplePhaseChecker.update = _require_phase
    return original(**arguments)


class _Copied:
    """Stand in for FutureTensors whose values have arrived."""

    def __init__(self, values: Any):
        self._values = values

    def wait(self) -> Any:
        return self._values


def _copied(values: Any, *, d2h_stream: None) -> _Copied:
    def copy(value: Any) -> Any:
        return value.clone() if hasattr(value, "clone") else value

    if isinstance(values, dict):
        return _Copied({name: copy(value) for name, value in values.items()})
    return _Copied(copy(values))


def _require_phase(self: Any, *, expect_phase: int, next_phase: int, caller_name: str = "") -> None:
    """Do what SimplePhaseChecker's kernel does."""
    found = int(self._phase)
    if int(self._enable_assert_device) and found != int(expect_phase):
        raise AssertionError(f"{caller_name}: phase {found}, not {int(expect_phase)}")
    self._phase.fill_(int(next_phase))
