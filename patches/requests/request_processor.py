# SPDX-License-Identifier: Apache-2.0
"""Refuse a custom logit processor that the server cannot load.

SGLang loads the serialized class in the scheduler, when the batch is made. A class of a module that
is not installed there, or damaged text, raises and ends the server for all clients.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch, Source

VALIDATE = "sglang.srt.managers.tokenizer_manager.TokenizerManager._validate_one_request"
LOAD = "sglang.srt.sampling.custom_logit_processor.CustomLogitProcessor.from_str"


def _check(self: Any, obj: Any, *args: Any, **kwargs: Any) -> None:
    """BEFORE _validate_one_request, which sees every prompt. A ValueError becomes a 400.

    Nothing is loaded unless the server allows processors; SGLang then refuses the request itself.
    """
    from sglang.srt.managers.tokenizer_manager import get_exec

    given = getattr(obj, "custom_logit_processor", None)
    if given and get_exec().features.enable_custom_logit_processor:
        load(given)


def load(serialized: Any) -> None:
    """Load a processor as the scheduler does. Raises ValueError."""
    from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

    try:
        processor = CustomLogitProcessor.from_str(serialized)
    except Exception as error:  # whatever a serialized class raises
        raise ValueError(
            f"custom_logit_processor cannot be loaded here ({type(error).__name__}: {error}): "
            "serialize a class whose modules the server has"
        ) from None
    if not callable(processor):
        raise ValueError(
            f"custom_logit_processor is a {type(processor).__name__} and cannot be called: "
            "serialize a CustomLogitProcessor"
        )


def _retired() -> bool:
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

    source = inspect.getsource(inspect.unwrap(TokenizerManager._validate_one_request))
    return "CustomLogitProcessor.from_str" in source


PATCH = Patch(
    name="request_processor",
    theme="requests",
    summary="A custom logit processor that cannot be loaded is refused",
    why="SGLang loads it in the scheduler alone; one request with a class of a module that is not "
    "installed there ends the scheduler and the server",
    upstream="unreported",
    retire_when="TokenizerManager._validate_one_request calls CustomLogitProcessor.from_str",
    retired=_retired,
    hooks=(Hook(VALIDATE, "913d991d7010", "before", _check),),
    relies_on=(Source(LOAD, "dbf2656ae3ec"),),
    required=False,
)
