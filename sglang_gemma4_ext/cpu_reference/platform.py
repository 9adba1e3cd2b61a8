# SPDX-License-Identifier: Apache-2.0
"""Define the CPU reference as an SGLang platform, selected by SGLANG_PLATFORM=gemma4_cpu."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform

from sglang_gemma4_ext.settings import CPU_PLATFORM, Settings

# A pool sized from free RAM would take gigabytes that a reference never fills.
DEFAULT_MAX_TOTAL_TOKENS = 65_536


class CpuReferencePlatform(CpuDeviceMixin, SRTPlatform):
    """Execute on the host with PyTorch's native operators, without graphs or compiled Triton."""

    _enum = PlatformEnum.OOT
    device_name = CPU_PLATFORM
    capabilities = PlatformCapabilities(supports_triton=False)

    def apply_server_args_defaults(self, server_args: Any) -> None:
        """Fill in what the user left open; explicit flags are kept."""
        if server_args.max_total_tokens is None:
            server_args.max_total_tokens = DEFAULT_MAX_TOTAL_TOKENS
        # An idle scheduler would otherwise spin on one of the cores that do the arithmetic.
        server_args.sleep_on_idle = True

    def get_device(self, device_id: int | None = None) -> str:
        # Without --device, SGLang's argument resolution takes this for the flag's value: a string.
        return "cpu"

    def get_default_attention_backend(self) -> str:
        return Settings.from_env().cpu_attention

    def get_speculative_cache_locs_fn(self) -> Callable[..., Any]:
        from sglang_gemma4_ext.cpu_reference.speculative import extend_cache_locs

        return extend_cache_locs

    def is_pin_memory_available(self, device: Any = None) -> bool:
        return False
