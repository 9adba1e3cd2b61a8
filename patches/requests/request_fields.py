# SPDX-License-Identifier: Apache-2.0
"""Refuse a prompt's field whose type differs from the scheduler's record.

/generate takes many fields as a list with one entry a prompt. With a single prompt SGLang passes
the list on, and the scheduler raises where it first reads it. That ends the server for all clients.
The scheduler's record is declared: TokenizedGenerateReqInput is a msgspec Struct, so msgspec can
check a value against its type.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch, Source

MANAGERS = "sglang.srt.managers"
NORMALIZE = f"{MANAGERS}.io_struct.GenerateReqInput._normalize_single_inputs"
VALIDATE = f"{MANAGERS}.tokenizer_manager.TokenizerManager._validate_one_request"
RECORD = f"{MANAGERS}.io_struct.TokenizedGenerateReqInput"
PLAIN = (bool, int, str, type(None))


def _check_single(self: Any) -> None:
    """BEFORE _normalize_single_inputs: refuse what would become a 500 later."""
    from sglang.srt.managers.io_struct import SessionParams

    for name, kind in (("rid", str), ("sampling_params", dict), ("session_params", dict)):
        value = getattr(self, name)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{name} of a single prompt cannot be a {type(value).__name__}")
    if unknown := set(self.session_params or ()) - set(SessionParams.__struct_fields__):
        raise ValueError(f"session_params has no {sorted(unknown)[0]!r}")


def _check(self: Any, obj: Any, *args: Any, **kwargs: Any) -> None:
    """BEFORE _validate_one_request, which sees every prompt. A ValueError becomes a 400."""
    import msgspec

    for name, declared in _declared().items():
        value = getattr(obj, name, None)
        if value is None:
            continue
        try:
            msgspec.convert(value, declared)
        except msgspec.ValidationError as error:
            raise ValueError(f"{name} of a prompt: {error}") from None
    _check_overrides(obj)


def _check_overrides(obj: Any) -> None:
    """Refuse overrides from JSON: they hold tensors, which only a Python caller can give."""
    from sglang.srt.managers.embed_types import PositionalEmbeds

    given = getattr(obj, "positional_embed_overrides", None)
    if given is not None and not isinstance(given, PositionalEmbeds):
        raise ValueError("positional_embed_overrides cannot be given over HTTP")


@functools.cache
def _declared() -> dict[str, Any]:
    """Return the scheduler's fields that hold one plain value, with their types."""
    from sglang.srt.managers.io_struct import TokenizedGenerateReqInput

    hints = typing.get_type_hints(TokenizedGenerateReqInput)
    return {name: hint for name, hint in hints.items() if _is_plain(hint)}


def _is_plain(hint: Any) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return all(map(_is_plain, typing.get_args(hint)))
    return hint in PLAIN or typing.get_origin(hint) is typing.Literal


def _retired() -> bool:
    from sglang.srt.managers.io_struct import GenerateReqInput

    source = inspect.getsource(inspect.unwrap(GenerateReqInput._normalize_single_inputs))
    return "return_hidden_states" in source


PATCH = Patch(
    name="request_fields",
    theme="requests",
    summary="A prompt's field is refused if its type differs from the scheduler's record",
    why="SGLang passes a batch's list on with a single prompt; one request with "
    "return_hidden_states = [] ends the scheduler and the server",
    upstream="unreported",
    retire_when="GenerateReqInput._normalize_single_inputs looks at return_hidden_states",
    retired=_retired,
    hooks=(
        Hook(NORMALIZE, "5a3dd90b006e", "before", _check_single),
        Hook(VALIDATE, "913d991d7010", "before", _check),
    ),
    relies_on=(Source(RECORD, "497b6b6a0fa7"),),
    required=False,
)
