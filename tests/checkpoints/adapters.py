# SPDX-License-Identifier: Apache-2.0
"""Make LoRA adapters of tiny checkpoints with peft, and merge them into the weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from sglang_gemma4_ext.checkpoint.adapters import ATTENTION, MLP
from tests.checkpoints.real_tools import load
from tests.checkpoints.reference import copy_companions


def adapted(
    src: Path, leaves: tuple[str, ...] = ATTENTION + MLP, seed: int = 6, **options: Any
) -> Any:
    """Return a peft model of `src` whose adapters, of rank 8, change its answers.

    leaves: projections of the language model; options: of peft's LoraConfig
    """
    from peft import LoraConfig, get_peft_model

    language = rf"(.*\.language_model|model)\.layers\..*\.({'|'.join(leaves)})"
    given = {"r": 8, "lora_alpha": 16, "target_modules": language, "task_type": "CAUSAL_LM"}
    model = get_peft_model(load(src), LoraConfig(**given | options))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:  # peft draws A without a seed, and B is zero
                parameter.normal_(std=0.05, generator=draw)
    return model


def merged(src: Path, out: Path) -> Path:
    """Write `src` with an adapter merged into it, and the same folder with `_dq` appended."""
    adapted(src).merge_and_unload().save_pretrained(out)
    copy_companions(src, out)
    shutil.copytree(out, out.with_name(out.name + "_dq"))
    return out
