# SPDX-License-Identifier: Apache-2.0
"""Recognize a Gemma 4 checkpoint from its config.json, before heavy imports."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEXT_ARCHITECTURES = frozenset({"Gemma4ForCausalLM"})
MULTIMODAL_ARCHITECTURES = frozenset(
    {"Gemma4ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration"}
)
DRAFT_ARCHITECTURES = frozenset({"Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM"})
# Tensors that text-only serving does not load.
TOWER_WEIGHT = re.compile(
    r"^(model\.)?(vision_tower|audio_tower|vision_embedder|embed_vision|embed_audio)\."
)
TARGET_ARCHITECTURES = TEXT_ARCHITECTURES | MULTIMODAL_ARCHITECTURES


@dataclass(frozen=True)
class ModelInfo:
    """Hold what config.json says: `config` is all of it, `text` the language model's part."""

    path: str
    architecture: str
    config: dict[str, Any] = field(repr=False, hash=False, compare=False)

    @property
    def text(self) -> dict[str, Any]:
        return self.config.get("text_config") or self.config

    @property
    def is_gemma4(self) -> bool:
        return self.architecture in TARGET_ARCHITECTURES | DRAFT_ARCHITECTURES

    @property
    def is_moe(self) -> bool:
        return experts_of(self.text) > 0


def experts_of(text: dict[str, Any]) -> int:
    """Return a layer's experts; none where the config switches their block off."""
    return (text.get("num_experts") or 0) if text.get("enable_moe_block", True) else 0


def read_model_info(path: str, revision: str | None = None) -> ModelInfo | None:
    """Read the config of a local folder, or through transformers of a hub name.

    Returns None if there is no config; SGLang then reports that in its own words.
    """
    local = Path(path)
    if local.is_dir():
        try:
            config = json.loads((local / "config.json").read_text())
        except (OSError, ValueError):
            return None
    else:
        from transformers import PretrainedConfig

        try:
            config, _ = PretrainedConfig.get_config_dict(path, revision=revision)
        except (OSError, ValueError):
            return None
    if not isinstance(config, dict):
        return None
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else ""
    return ModelInfo(path, str(name), config)
