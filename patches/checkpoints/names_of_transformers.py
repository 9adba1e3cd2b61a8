# SPDX-License-Identifier: Apache-2.0
"""Load the tensor names that transformers accepts: without `model.`, or with it twice.

A value projection of a K = V layer is left out, as in transformers. SGLang would overwrite the
values with it, or not, by the order of the file.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from sglang_gemma4_ext.checkpoint.model_family import DRAFT_ARCHITECTURES, TARGET_ARCHITECTURES
from sglang_gemma4_ext.checkpoint.names import served_name
from sglang_gemma4_ext.registry import Hook, Patch

LOADER = "sglang.srt.model_loader.loader.DefaultModelLoader"
CAUSAL = "sglang.srt.models.gemma4_causal.Gemma4ForCausalLM"

_VALUES = re.compile(r"(?:model\.)?(?:language_model\.)?layers\.(\d+)\.self_attn\.v_proj\..+")


def _rename(model: Any, weights: Iterable[tuple[str, Any]], device: Any):
    """BEFORE load_weights_only, which every loader of safetensors files calls."""
    architecture = type(model).__name__
    if architecture not in TARGET_ARCHITECTURES | DRAFT_ARCHITECTURES:
        return None
    return (model, _renamed(weights, architecture, model._get_k_eq_v_layers()), device), {}


def _renamed(
    weights: Iterable[tuple[str, Any]], architecture: str, k_is_v: set[int]
) -> Iterator[tuple[str, Any]]:
    for name, tensor in weights:
        served = served_name(name, architecture)
        values = _VALUES.fullmatch(served)
        if values is None or int(values[1]) not in k_is_v:
            yield served, tensor


def _retired() -> bool:
    from sglang.srt.models.gemma4_causal import Gemma4ForCausalLM

    return '"layers."' in inspect.getsource(inspect.unwrap(Gemma4ForCausalLM.load_weights))


PATCH = Patch(
    name="names_of_transformers",
    theme="checkpoints",
    summary="Tensor names load as in transformers: without model., with it twice, v_proj of K = V",
    why="the classes skip names of another prefix without a word; a redundant v_proj overwrites "
    "the values of a K = V layer, which transformers leaves out",
    upstream="unreported",
    retire_when="Gemma4ForCausalLM.load_weights takes names without `model.`",
    retired=_retired,
    hooks=(Hook(f"{LOADER}.load_weights_only", "68493d0dbe68", "before", _rename),),
)
