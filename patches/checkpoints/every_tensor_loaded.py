# SPDX-License-Identifier: Apache-2.0
"""Refuse a checkpoint that leaves weights of the model unwritten.

SGLang skips names that it does not know, warns of parameters that nothing wrote, and serves what
memory held. Each rank checks its own part, of the target and of a draft, in every format.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from sglang_gemma4_ext import quiet
from sglang_gemma4_ext.checkpoint.expected import Difference, refuse
from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.leftovers import is_leftover
from sglang_gemma4_ext.checkpoint.model_family import (
    DRAFT_ARCHITECTURES,
    TARGET_ARCHITECTURES,
    TOWER_WEIGHT,
)
from sglang_gemma4_ext.patches.checkpoints._places import (
    checkpoint_name,
    missing_names,
    need_of,
)
from sglang_gemma4_ext.patches.checkpoints._writes import Writes
from sglang_gemma4_ext.registry import Hook, Patch

logger = logging.getLogger(__name__)

LOADER = "sglang.srt.model_loader.loader"
BITSANDBYTES = f"{LOADER}.BitsAndBytesModelLoader"


def _load_and_check(
    original: Callable[..., None], model: Any, weights: Iterable[tuple[str, Any]], device: Any
) -> None:
    """AROUND load_weights_only, which every loader but bitsandbytes' and GGUF's calls."""
    if not _is_gemma4(model):
        return original(model, weights, device)
    seen = _Seen(model)
    with seen.writes, _without_sglangs_warning():
        original(model, seen.watch(weights), device)
    seen.check()


def _load_bitsandbytes(
    original: Callable[..., None], self: Any, model_config: Any, model: Any
) -> None:
    """AROUND _load_weights, which opens the files itself."""
    if not _is_gemma4(model):
        return original(self, model_config, model)
    seen, load = _Seen(model), model.load_weights
    model.load_weights = lambda weights: load(seen.watch(weights))
    try:
        with seen.writes, _without_sglangs_warning():
            original(self, model_config, model)
    finally:
        del model.load_weights
    seen.check()


def _without_sglangs_warning() -> AbstractContextManager[None]:
    """Keep SGLang's warning at debug level: it names KV-shared layers and optional scales, too."""
    return quiet.demoted(quiet.MODELS, "Some weights are not initialized from checkpoints")


def _is_gemma4(model: Any) -> bool:
    return type(model).__name__ in TARGET_ARCHITECTURES | DRAFT_ARCHITECTURES


class _Seen:
    """Hold what one loading of a model offered and wrote."""

    def __init__(self, model: Any):
        self.model = model
        self.writes = Writes(model)
        self.offered: list[str] = []

    def watch(self, weights: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        for name, tensor in self.writes.named(weights):
            self.offered.append(name)
            _require_order(name, tensor)
            yield name, tensor

    def check(self) -> None:
        """Raise CheckpointError unless each parameter was written, and once; log the rest."""
        path = str(getattr(_config(self.model), "_name_or_path", "")) or "the checkpoint"
        text = _text_config(self.model)
        missing, unsure = [], []
        for name, tensor in _provided(self.model):
            if twice := self.writes.written_twice(tensor):
                _refuse_two(path, name, twice)
            if self.writes.written(tensor) == tensor.numel():
                continue
            need = need_of(name)
            if TOWER_WEIGHT.match(name):
                # SGLang renames the towers' tensors. Their buffers are constants of its own.
                need = "unknown" if isinstance(tensor, torch.nn.Parameter) else "optional"
            if need == "unknown":
                unsure.append(checkpoint_name(name))
            elif need == "needed":
                writers = self.writes.writers(tensor)
                missing += missing_names(name, writers, text, experts=(*tensor.shape, 1)[0])
        unknown = [name for name in self.offered if self._has_no_place(name)]
        if missing:
            refuse(path, Difference(tuple(missing), tuple(unknown)))
        _report(path, unknown, unsure)

    def _has_no_place(self, name: str) -> bool:
        return name not in self.writes.used and not is_leftover(name)


def _require_order(name: str, tensor: torch.Tensor) -> None:
    """Refuse in-features in another order, whatever the quantization config says of it."""
    if name.endswith("g_idx") and bool((tensor.diff() < 0).any()):
        raise CheckpointError(
            f"{name}: its in-features are in another order (act-order), which is not served; "
            "quantize again with desc_act false"
        )


def _provided(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters and persistent buffers of a model, tied ones once."""
    yield from model.named_parameters()
    passing = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name not in passing)


def _config(model: Any) -> Any:
    return getattr(model, "assistant_config", model.config)


def _text_config(model: Any) -> Any:
    config = getattr(model.config, "text_config", None) or model.config
    if type(model).__name__ in DRAFT_ARCHITECTURES:
        config = copy.copy(config)
        config.num_kv_shared_layers = config.num_hidden_layers
    return config


def _refuse_two(path: str, parameter: str, names: tuple[str, str]) -> None:
    if need_of(parameter) == "needed":
        raise CheckpointError(
            f"{path} holds {names[0]} and {names[1]}, which are the same weights of the model: "
            "export the checkpoint again with one of them"
        )


def _report(path: str, unknown: list[str], unsure: list[str]) -> None:
    if unknown:
        logger.warning(
            "%s holds %d tensors that no part of the model took, first %s; they are not loaded",
            *(path, len(unknown), unknown[0]),
        )
    if unsure:
        logger.warning(
            "%s provides nothing for %d tensors of the model, first %s; whether its format needs "
            "them is not known",
            *(path, len(unsure), unsure[0]),
        )


def _retired() -> bool:
    from sglang.srt.models.gemma4_mm import Gemma4ForConditionalGeneration as Gemma4

    return "raise " in inspect.getsource(inspect.unwrap(Gemma4.load_weights))


PATCH = Patch(
    name="every_tensor_loaded",
    theme="checkpoints",
    summary="A server starts only if its checkpoint wrote every weight of the model, and once",
    why="the Gemma 4 classes skip names that they do not know and only warn of weights that "
    "nothing wrote; the server then answers from uninitialized memory",
    upstream="unreported",
    retire_when="SGLang's loaders refuse a checkpoint that leaves weights of the model unwritten",
    retired=_retired,
    hooks=(
        Hook(
            f"{LOADER}.DefaultModelLoader.load_weights_only",
            "68493d0dbe68",
            "around",
            _load_and_check,
        ),
        Hook(f"{BITSANDBYTES}._load_weights", "2471de808afc", "around", _load_bitsandbytes),
    ),
)
