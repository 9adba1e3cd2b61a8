# SPDX-License-Identifier: Apache-2.0
"""Read SGLang's part of the command line, and add flags to it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

from sglang_gemma4_ext import demo
from sglang_gemma4_ext.settings import CpuAttention, SettingsError

MODEL = ("--model-path", "--model")
DRAFT_MODEL = ("--speculative-draft-model-path", "--speculative-draft-model")
TENSOR_PARALLEL = ("--tp-size", "--tensor-parallel-size", "--tp")
_PARALLEL = (
    TENSOR_PARALLEL,
    ("--dp-size", "--data-parallel-size", "--dp"),
    ("--pp-size", "--pipeline-parallel-size", "--pp"),
)
ATTENTION = "--attention-backend"
ATTENTION_BACKENDS = (ATTENTION, "--prefill-attention-backend", "--decode-attention-backend")


class CommandLine:
    """Hold arguments for SGLang's own parser; a flag that the user gave is never overridden."""

    def __init__(self, argv: list[str]):
        self.argv = list(argv)
        if self.argv and not self.argv[0].startswith("-"):
            # `sglang serve MODEL` takes the model first; so do we.
            self.argv[:1] = ["--model-path", self.argv[0]]
        self.config = _read_config(self._given("--config"))
        content = {str(key).replace("-", "_"): value for key, value in self.config.items()}
        self._config_names = {name for name, value in content.items() if value not in (None, False)}
        self._scalars = {
            name: str(value)
            for name, value in content.items()
            if value is not None and not isinstance(value, list | dict)
        }

    def value(self, *spellings: str) -> str | None:
        """Return the last `--flag VALUE` or `--flag=VALUE`, or else the value in the --config
        file.
        """
        given = self._given(*spellings)
        if given is None:
            keys = [spelling.removeprefix("--").replace("-", "_") for spelling in spellings]
            given = next((self._scalars[key] for key in keys if key in self._scalars), None)
        return given

    def values(self, *spellings: str) -> list[str]:
        """Return all values of a flag that takes several."""
        found: list[str] = []
        for position, argument in enumerate(self.argv):
            flag, equals, value = argument.partition("=")
            if not _means(flag, spellings):
                continue
            rest = self.argv[position + 1 :]
            after = itertools.takewhile(lambda given: not given.startswith("--"), rest)
            found = [value] if equals else list(after)
        if not found:
            keys = [spelling.removeprefix("--").replace("-", "_") for spelling in spellings]
            given: Any = next((self.config[key] for key in keys if key in self.config), [])
            found = [str(value) for value in (given if isinstance(given, list) else [given])]
        return found

    def has(self, *spellings: str) -> bool:
        """Tell whether a flag was given at all, with a value or without."""
        names = {spelling.removeprefix("--").replace("-", "_") for spelling in spellings}
        given = any(_means(argument.partition("=")[0], spellings) for argument in self.argv)
        return given or not names.isdisjoint(self._config_names)

    @property
    def ranks(self) -> int:
        """Return how many schedulers the flags ask for: tensor x data x pipeline parallel."""
        sizes = (self.value(*flags) or "1" for flags in _PARALLEL)
        return math.prod(int(size) for size in sizes if size.isdecimal())

    def default(self, flag: str, value: str) -> None:
        if self.value(flag) is None:
            self.argv += [flag, value]

    def replace(self, flag: str, value: str) -> None:
        """Set a flag, even if it was given in the arguments or in the --config file."""
        self._remove(flag)
        self.argv += [flag, value]

    def use_demo(self) -> None:
        """Serve the bundled model. Raises SettingsError if another model was named too."""
        if self.value(*MODEL) is not None:
            raise SettingsError("--demo serves the bundled model: leave out --model-path")
        self.default("--model-path", str(demo.model_path()))
        self.default("--served-model-name", demo.NAME)

    def use_cpu(self, attention: CpuAttention) -> None:
        """Run on the CPU reference. Raises SettingsError on an attention backend for GPUs."""
        self.default("--device", "cpu")
        self.default("--lora-backend", "torch_native")
        for flag in ATTENTION_BACKENDS:
            backend = self.value(flag)
            if backend not in (None, attention):
                raise SettingsError(
                    f"{flag} {backend} needs a GPU and none was found; without one, "
                    "choose with --gemma4-cpu-attention torch_native or triton"
                )
        if attention == "triton":
            self.default(ATTENTION, "triton")
            self.default("--cuda-graph-backend-decode", "disabled")
            self.default("--cuda-graph-backend-prefill", "disabled")
        else:
            # SGLang's start-up check refuses this name for Gemma 4, but chooses it by itself.
            for flag in ATTENTION_BACKENDS:
                self._remove(flag)

    def _given(self, *spellings: str) -> str | None:
        found = None
        for position, argument in enumerate(self.argv):
            flag, equals, value = argument.partition("=")
            if not _means(flag, spellings):
                continue
            if equals:
                found = value
            elif position + 1 < len(self.argv):
                found = self.argv[position + 1]
        return found

    def _remove(self, flag: str) -> None:
        kept: list[str] = []
        rest = iter(self.argv)
        for argument in rest:
            given, equals, _ = argument.partition("=")
            if not _means(given, (flag,)):
                kept.append(argument)
            elif not equals:
                next(rest, None)
        self.argv = kept


def _means(flag: str, spellings: tuple[str, ...]) -> bool:
    """Tell whether an argument is one of a flag's spellings or, as in argparse, short for one."""
    return len(flag) > 2 and flag.startswith("--") and any(s.startswith(flag) for s in spellings)


def _read_config(path: str | None) -> dict[str, Any]:
    """Read a `--config` file, empty where there is none to read; SGLang checks the file."""
    if path is None or not Path(path).is_file():
        return {}
    import yaml

    try:
        content: Any = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
