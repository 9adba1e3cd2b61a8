# SPDX-License-Identifier: Apache-2.0
"""Hold the extension's settings; only this module reads or writes the environment.

SGLang starts its scheduler and detokenizer as new processes, which share only the environment with
the launcher. Therefore settings travel there. Under `sglang serve`, where our flags do not exist,
users set the same variables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

CPU_PLATFORM = "gemma4_cpu"
# Beginnings of warnings that SGLang's modules give at import on a machine without a GPU.
CPU_WARNINGS = ("Triton is not supported on current platform", "Only CUDA")

CpuAttention = Literal["torch_native", "triton"]
WeightKernels = Literal["auto", "fused", "humming", "marlin", "dequant"]
SwaPolicy = Literal["auto", "seed", "upstream"]
Router = Literal["auto", "fused", "sglang"]
Attention = Literal["auto", "ours", "sglang"]
Ple = Literal["gpu", "host"]
Head = Literal["checkpoint", "int8"]
ChatParsers = Literal["auto", "off"]

_PREFIX = "SGLANG_GEMMA4_EXT_"


class SettingsError(ValueError):
    """Report a setting that cannot be honoured; the message is one sentence for the user."""


@dataclass(frozen=True)
class Settings:
    """Hold the user's choices.

    disable: names of patches left out
    cpu_attention: attention of the CPU reference: SGLang's torch_native, or its Triton kernels in
        Triton's interpreter (slow; for testing kernels)
    weights: kernels for NVFP4, INT4 and FP8 weights. `fused`: our Triton kernels (in the
        interpreter without a GPU). `humming`, `marlin`: SGLang's; Humming takes 4-bit weights.
        `dequant`: the exact reference, dequantize then matmul. `auto` on a GPU: Marlin for linears,
        Humming for 4-bit experts that Marlin refuses, our kernels where neither fits and for shapes
        that a committed benchmark shows faster. `auto` without a GPU: the reference.
    swa_policy: split of KV memory between full and sliding layers; see plan/pools.py
    router: kernels that route tokens to experts: ours, SGLang's, or ours where measured faster
    attention: kernels for attention: ours over any KV cache, SGLang's, or ours over an E4M3 cache
    ple: memory that holds the per-layer embeddings of E2B and E4B
    head: how the tied embedding and head is held: as stored, or in INT8 with a scale a row
    chat_parsers: whether tool calls and thoughts are parsed where the user named no parser
    cpu: the CPU reference is active; the launcher sets it on a machine without a GPU
    launched: this process belongs to a server of our launcher
    check_bounds: the slots that attention reads are checked (SGLANG_TRTLLM_MHA_DEBUG=1)
    """

    disable: frozenset[str] = frozenset()
    cpu_attention: CpuAttention = "torch_native"
    weights: WeightKernels = "auto"
    swa_policy: SwaPolicy = "auto"
    router: Router = "auto"
    attention: Attention = "auto"
    ple: Ple = "gpu"
    head: Head = "checkpoint"
    chat_parsers: ChatParsers = "auto"
    cpu: bool = False
    launched: bool = False
    check_bounds: bool = False

    def __post_init__(self) -> None:
        _require("--gemma4-cpu-attention", self.cpu_attention, get_args(CpuAttention))
        _require("--gemma4-weights", self.weights, get_args(WeightKernels))
        _require("--gemma4-swa-policy", self.swa_policy, get_args(SwaPolicy))
        if self.cpu and self.weights == "fused" and self.cpu_attention != "triton":
            raise SettingsError(
                "--gemma4-weights fused needs a GPU and none was found; without one it runs in "
                "Triton's interpreter: add --gemma4-cpu-attention triton, or leave it out"
            )
        if self.cpu and self.weights in ("humming", "marlin"):
            raise SettingsError(
                f"--gemma4-weights {self.weights} needs a GPU and none was found; leave it out for "
                "the exact reference"
            )
        _require("--gemma4-router", self.router, get_args(Router))
        _require("--gemma4-attention", self.attention, get_args(Attention))
        _require("--gemma4-ple", self.ple, get_args(Ple))
        _require("--gemma4-head", self.head, get_args(Head))
        _require("--gemma4-chat-parsers", self.chat_parsers, get_args(ChatParsers))

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings of this process. Raises SettingsError on a value out of range."""

        def given(name: str, default: Any) -> Any:
            return env.get(_PREFIX + name, default)  # __post_init__ checks it

        return cls(
            disable=parse_names(given("DISABLE", "")),
            cpu_attention=given("CPU_ATTENTION", cls.cpu_attention),
            weights=given("WEIGHTS", given("NVFP4", cls.weights)),
            swa_policy=given("SWA_POLICY", cls.swa_policy),
            router=given("ROUTER", cls.router),
            attention=given("ATTENTION", cls.attention),
            ple=given("PLE", cls.ple),
            head=given("HEAD", cls.head),
            chat_parsers=given("CHAT_PARSERS", cls.chat_parsers),
            cpu=env.get("SGLANG_PLATFORM") == CPU_PLATFORM,
            launched=bool(env.get(_PREFIX + "RUN_FOLDER")),
            check_bounds=env.get("SGLANG_TRTLLM_MHA_DEBUG") == "1",
        )

    def export(
        self,
        env: MutableMapping[str, str] = os.environ,
        *,
        speculative: bool = False,
        ranks: int = 1,
    ) -> None:
        """Write the settings where this process's children and SGLang will read them.

        Call it before Triton is imported, which then chooses its interpreter.
        speculative: draft trees are Triton kernels on the CPU too, with every attention backend.
        ranks: schedulers of one server. By itself SGLang binds each to a NUMA node.
        """
        env[_PREFIX + "DISABLE"] = ",".join(sorted(self.disable))
        env[_PREFIX + "CPU_ATTENTION"] = self.cpu_attention
        env[_PREFIX + "WEIGHTS"] = self.weights
        env[_PREFIX + "SWA_POLICY"] = self.swa_policy
        env[_PREFIX + "ROUTER"] = self.router
        env[_PREFIX + "ATTENTION"] = self.attention
        env[_PREFIX + "PLE"] = self.ple
        env[_PREFIX + "HEAD"] = self.head
        env[_PREFIX + "CHAT_PARSERS"] = self.chat_parsers
        if self.cpu:
            env["SGLANG_PLATFORM"] = CPU_PLATFORM
            quiet = [f"ignore:{text}" for text in CPU_WARNINGS]
            env["PYTHONWARNINGS"] = ",".join(filter(None, [env.get("PYTHONWARNINGS"), *quiet]))
            if self.cpu_attention == "triton" or speculative:
                env["TRITON_INTERPRET"] = "1"
            if ranks > 1:
                env.setdefault("SGLANG_CPU_OMP_THREADS_BIND", _cores_by_rank(ranks))


def parse_names(text: str) -> frozenset[str]:
    """Split a comma-separated list of patch names; blanks are ignored."""
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def plugin_allowed(name: str, env: Mapping[str, str] = os.environ) -> bool:
    """Tell whether SGLANG_PLUGINS, SGLang's allow-list of plugins, lets plugin `name` load."""
    allowed = parse_names(env.get("SGLANG_PLUGINS", ""))
    return not allowed or name in allowed


def another_hub(env: Mapping[str, str] = os.environ) -> bool:
    """Tell whether SGLang downloads from ModelScope instead of the Hugging Face hub."""
    return env.get("SGLANG_USE_MODELSCOPE", "").lower() in ("1", "true", "yes", "y")


def nvcc_host_compiler(env: Mapping[str, str] = os.environ) -> str:
    """Return the C++ compiler that nvcc uses for host code; SGLang does not set one."""
    return env.get("NVCC_CCBIN", "g++")


def environment() -> dict[str, str]:
    """Return this process's variables, for a bug report to choose from."""
    return dict(os.environ)


def run_folder_path() -> str | None:
    """Return the folder that all processes of a launcher's server share, or None."""
    return os.environ.get(_PREFIX + "RUN_FOLDER") or None


def set_run_folder_path(path: str) -> None:
    os.environ[_PREFIX + "RUN_FOLDER"] = path


def _cores_by_rank(ranks: int) -> str:
    """Divide this process's cores among the ranks; ranks share them if there are too few."""
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[rank::ranks] or [cores[rank % len(cores)]] for rank in range(ranks)]
    return "|".join(",".join(map(str, share)) for share in shares)


def _require(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingsError(f"{flag} must be one of {', '.join(allowed)}, not {value!r}")
