# SPDX-License-Identifier: Apache-2.0
"""Serve text only: build, load and need no tower unless --enable-multimodal asks for it.

SGLang always constructs the vision and audio towers of the multimodal Gemma 4 classes and loads a
processor. With multimodality off, its tokenizer path does not need the processor. This patch adds
the default, removes the towers, and refuses media with a message that names the flag.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

from sglang_gemma4_ext.checkpoint.model_family import (
    MULTIMODAL_ARCHITECTURES,
    TOWER_WEIGHT,
    read_model_info,
)
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

logger = logging.getLogger(__name__)

TOWERED = "sglang.srt.models.gemma4_mm.Gemma4ForConditionalGeneration"
UNIFIED = "sglang.srt.models.gemma4_unified.Gemma4UnifiedForConditionalGeneration"
TOKENIZER_MANAGER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"
CHAT = "sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat"

REFUSAL = (
    "This server runs Gemma 4 text-only and cannot take {media} input; "
    "restart it with --enable-multimodal to send images, audio or video."
)
TOWERS = ("Gemma4VisionEncoder", "Gemma4AudioEncoder", "Gemma4MultimodalEmbedder")
UNIFIED_TOWERS = ("Gemma4UnifiedVisionEmbedder", "Gemma4UnifiedMultimodalEmbedder")


def _text_only_by_default(self: Any, *args: Any, **kwargs: Any):
    """BEFORE ModelConfig.__init__: an unset enable_multimodal means False for Gemma 4."""
    if kwargs.get("enable_multimodal") is not None:
        return None
    model = read_model_info(kwargs.get("model_path") or args[0], kwargs.get("revision"))
    if model is None or model.architecture not in MULTIMODAL_ARCHITECTURES:
        return None
    return (self, *args), {**kwargs, "enable_multimodal": False}


def _is_text_only() -> bool:
    from sglang.srt.runtime_context import get_mm

    return not get_mm().enable_multimodal


def _without(names: tuple[str, ...]) -> Callable[..., None]:
    """Make an AROUND hook of __init__ during which the towers' classes `names` construct None."""

    def around(original: Callable[..., None], self: Any, *args: Any, **kwargs: Any) -> None:
        if not _is_text_only():
            return original(self, *args, **kwargs)
        module = sys.modules[inspect.unwrap(original).__module__]
        with _absent(module, names):
            return original(self, *args, **kwargs)

    return around


@contextlib.contextmanager
def _absent(module: ModuleType, names: Iterable[str]) -> Iterator[None]:
    """Let constructing any of a module's `names` yield None within the block."""
    saved = {name: getattr(module, name) for name in names}
    for name in saved:
        setattr(module, name, lambda *args, **kwargs: None)
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(module, name, value)


def _skip_tower_weights(self: Any, weights: Iterable[tuple[str, Any]]):
    """BEFORE load_weights: pass on only the language model's tensors."""
    if not _is_text_only():
        return None
    return (self, _language_model(weights)), {}


def _language_model(weights: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    count = size = 0
    for name, tensor in weights:
        if TOWER_WEIGHT.match(name):
            count += 1
            size += tensor.numel() * tensor.element_size()
        else:
            yield name, tensor
    if count:
        logger.info("Text-only: %d tower tensors (%s) left out", count, _amount(size))


def _amount(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"


def _refuse_media(self: Any, obj: Any, *args: Any, **kwargs: Any) -> None:
    """BEFORE TokenizerManager._validate_one_request: every API ends here; ValueError is a 400."""
    if self.model_config.is_multimodal or not obj.contains_mm_input():
        return
    sent = [kind for kind in ("image", "audio", "video") if getattr(obj, f"{kind}_data", None)]
    raise ValueError(REFUSAL.format(media=" and ".join(sent) or "media"))


def _name_the_flag(result: str | None, self: Any, request: Any) -> str | None:
    """AFTER OpenAIServingChat._validate_media_content: upstream's refusal, with what to do."""
    if result is None:
        return None
    sent = re.search(r"'(image|audio|input_audio|video)", result)
    return REFUSAL.format(media=sent.group(1).removeprefix("input_") if sent else "media")


def _prefill_without_graphs(original: Callable[..., None], server_args: Any) -> None:
    """AROUND the rules on breakable prefill graphs: the multimodal classes keep their rule.

    SGLang turns these graphs off for models that serve media. The class, not the media, decides how
    a prefill is captured. A backend that the command line names is not affected.
    """
    from sglang.srt.arg_groups.overrides import model_config_of

    config = model_config_of(server_args)
    served = config.is_multimodal
    architectures = config.hf_config.architectures or ()
    config.is_multimodal = served or bool(MULTIMODAL_ARCHITECTURES.intersection(architectures))
    try:
        original(server_args)
    finally:
        config.is_multimodal = served


def _retired() -> bool:
    from sglang.srt.configs import model_config

    source = inspect.getsource(inspect.unwrap(model_config.ModelConfig.__init__))
    return '"Gemma4ForConditionalGeneration"' in source


def _stands_down(ctx: Context) -> str | None:
    if ctx.model is None or ctx.model.architecture in MULTIMODAL_ARCHITECTURES:
        return None
    return "the checkpoint has no towers"


PATCH = Patch(
    name="text_only",
    theme="model",
    summary="Text-only unless --enable-multimodal: no towers built or loaded, no processor needed",
    why=(
        "Gemma 4 is not among SGLang's mm_disabled_models; with multimodality off its constructor "
        "still builds the towers"
    ),
    upstream="sgl-project/sglang#32425 and sgl-project/sglang#32221 (open)",
    retire_when="ModelConfig's mm_disabled_models names Gemma4ForConditionalGeneration",
    retired=_retired,
    hooks=(
        Hook(
            "sglang.srt.configs.model_config.ModelConfig.__init__",
            "41aa889ec46e",
            "before",
            _text_only_by_default,
        ),
        Hook(
            "sglang.srt.arg_groups.cuda_graph_hook.disable_breakable_cudagraph_if_incompatible",
            "4c3fef3ba8a0",
            "around",
            _prefill_without_graphs,
        ),
        Hook(f"{TOWERED}.__init__", "308673c80a96", "around", _without(TOWERS)),
        Hook(f"{TOWERED}.load_weights", "83483cee7304", "before", _skip_tower_weights),
        Hook(f"{UNIFIED}.__init__", "bc6d81cbdc50", "around", _without(UNIFIED_TOWERS)),
        Hook(f"{UNIFIED}.load_weights", "c1d20b19b01e", "before", _skip_tower_weights),
        Hook(f"{TOKENIZER_MANAGER}._validate_one_request", "913d991d7010", "before", _refuse_media),
        Hook(f"{CHAT}._validate_media_content", "16b876f9542d", "after", _name_the_flag),
    ),
    relies_on=(
        Source(
            "sglang.srt.models.gemma4_mm.Gemma4ForConditionalGeneration.forward", "a6bd6d064e9d"
        ),
        Source(f"{TOKENIZER_MANAGER}.init_tokenizer_and_processor", "c3457bf9e604"),
    ),
    stands_down=_stands_down,
)
