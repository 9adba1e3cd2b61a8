# SPDX-License-Identifier: Apache-2.0
"""Hold what a patch reads to decide whether it is needed: versions, GPU, model, settings."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.machine import NO_GPU, Gpu, detect_gpu
from sglang_gemma4_ext.settings import Settings


@dataclass(frozen=True)
class Context:
    """Hold one process's view of where it runs; `model` is None until a checkpoint is known."""

    settings: Settings = field(default_factory=Settings)
    model: ModelInfo | None = None
    gpu: Gpu = NO_GPU
    sglang: str = ""

    @classmethod
    def here(cls, settings: Settings, model: ModelInfo | None = None) -> Context:
        return cls(settings, model, detect_gpu(), sglang_version())


def sglang_version() -> str:
    """Return the installed SGLang's version, or an empty string."""
    try:
        return importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return ""
