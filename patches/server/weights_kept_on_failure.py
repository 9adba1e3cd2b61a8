# SPDX-License-Identifier: Apache-2.0
"""Keep the served weights when /update_weights_from_disk cannot load others.

SGLang notes the new path before it loads. Where loading fails, it "rolls back" from that path, so
it serves what the failed checkpoint held, or raises again and the scheduler ends. Here a checkpoint
is checked before a weight is written, and a failure loads the served checkpoint again.

A request goes to the target and to the draft. An MTP assistant keeps its own weights.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.model_family import DRAFT_ARCHITECTURES, TARGET_ARCHITECTURES
from sglang_gemma4_ext.checkpoint.preflight import check_checkpoint
from sglang_gemma4_ext.registry import Hook, Patch

logger = logging.getLogger(__name__)

UPDATER = "sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater"
REPACKED = (
    "Humming multiplies weights of this server, in a layout that no checkpoint has: start it with "
    "--gemma4-weights fused to replace weights while it runs. The server keeps its weights."
)
# Beginnings of what SGLang returns before it writes a weight.
NOTHING_WRITTEN = ("Failed to get weights iterator", "Failed to get model loader")


def _update(
    original: Callable[..., tuple[bool, str]],
    self: Any,
    model_path: str,
    load_format: str,
    *args: Any,
    **kwargs: Any,
) -> tuple[bool, str]:
    """AROUND update_weights_from_disk. Raises RuntimeError if the served weights are lost."""
    served, kind = self.model_config.model_path, type(self.get_model()).__name__
    if kind not in TARGET_ARCHITECTURES | DRAFT_ARCHITECTURES:
        return original(self, model_path, load_format, *args, **kwargs)
    try:
        info = check_checkpoint(
            model_path, flag="model_path", weights=load_format != "dummy", tokenizer=False
        )
    except CheckpointError as error:
        return False, f"{error}. The server keeps its weights."
    if any(getattr(module, "gemma4_humming", None) for module in self.get_model().modules()):
        return False, REPACKED
    given = info.architecture if info else kind
    if given != kind:
        if kind in DRAFT_ARCHITECTURES:
            return True, "The assistant keeps its weights."
        return False, (
            f"{model_path} holds {given or 'another model'} and the server runs {kind}: give a "
            "checkpoint of the same model. The server keeps its weights."
        )
    try:
        done, message = original(self, model_path, load_format, *args, **kwargs)
    except Exception as error:
        # SGLang's own way back loads the new checkpoint again, and fails again.
        done, message = False, f"Failed to update weights: {error}."
    if done:
        return True, message
    self.model_config.model_path = served
    if not message.startswith(NOTHING_WRITTEN):
        _load_again(original, self, served)
    return False, f"{message} The server keeps its weights."


def _load_again(original: Callable[..., tuple[bool, str]], updater: Any, path: str) -> None:
    logger.warning("Loading %s again, since other weights could not be loaded", path)
    restored, message = original(updater, path, "auto")
    if not restored:
        raise RuntimeError(
            f"the weights of {path} were overwritten and could not be read again: "
            f"start the server again ({message})"
        )


def _retired() -> bool:
    from sglang.srt.model_executor.model_runner_components.weight_updater import WeightUpdater

    source = inspect.getsource(inspect.unwrap(WeightUpdater.update_weights_from_disk))
    return source.count("model_config.model_path =") > 1


PATCH = Patch(
    name="weights_kept_on_failure",
    theme="server",
    summary="A failed /update_weights_from_disk leaves the server with its weights",
    why="SGLang rolls back from the new path: it serves part of a broken checkpoint, or its "
    "scheduler ends; it also loads the target's checkpoint into an MTP assistant",
    upstream="https://github.com/sgl-project/sglang/pull/30761",
    retire_when="update_weights_from_disk rolls back from the path that was served",
    retired=_retired,
    hooks=(Hook(f"{UPDATER}.update_weights_from_disk", "2510a4bd6c7a", "around", _update),),
)
