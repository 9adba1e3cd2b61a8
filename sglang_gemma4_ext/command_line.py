# SPDX-License-Identifier: Apache-2.0
"""SGLang's part of the command line: what the user set, and what the launcher adds to it."""

from __future__ import annotations

from sglang_gemma4_ext import demo
from sglang_gemma4_ext.settings import CpuAttention, SettingsError


class CommandLine:
    """Arguments for SGLang's own parser. A flag that the user gave is never overridden."""

    def __init__(self, argv: list[str]):
        self.argv = list(argv)
        if self.argv and not self.argv[0].startswith("-"):
            # `sglang serve MODEL` takes the model first; so do we.
            self.argv[:1] = ["--model-path", self.argv[0]]

    def value(self, flag: str) -> str | None:
        """The value given to `--flag VALUE` or `--flag=VALUE`, the last one counting."""
        found = None
        for position, argument in enumerate(self.argv):
            if argument == flag and position + 1 < len(self.argv):
                found = self.argv[position + 1]
            elif argument.startswith(flag + "="):
                found = argument.partition("=")[2]
        return found

    def model_path(self) -> str | None:
        return self.value("--model-path") or self.value("--model")

    def default(self, flag: str, value: str) -> None:
        if self.value(flag) is None:
            self.argv += [flag, value]

    def use_demo(self) -> None:
        """Serve the bundled model. Raises SettingsError if another was named too."""
        if self.model_path() is not None:
            raise SettingsError("--demo serves the bundled model: leave out --model-path")
        self.default("--model-path", str(demo.model_path()))
        self.default("--served-model-name", demo.NAME)

    def use_cpu(self, attention: CpuAttention) -> None:
        """Run on the CPU reference. Raises SettingsError on an attention backend for GPUs."""
        self.default("--device", "cpu")
        backend = self.value("--attention-backend")
        if backend not in (None, attention):
            raise SettingsError(
                f"--attention-backend {backend} needs a GPU and none was found; without one, "
                "choose with --gemma4-cpu-attention torch_native or triton"
            )
        if attention == "triton":
            self.default("--attention-backend", "triton")
            self.default("--cuda-graph-backend-decode", "disabled")
            self.default("--cuda-graph-backend-prefill", "disabled")
        elif backend is not None:
            # SGLang's start-up check refuses the name for Gemma 4 and arrives at it by itself.
            position = (
                self.argv.index("--attention-backend")
                if ("--attention-backend" in self.argv)
                else None
            )
            if position is None:
                self.argv.remove(f"--attention-backend={backend}")
            else:
                del self.argv[position : position + 2]
