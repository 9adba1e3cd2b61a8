# SPDX-License-Identifier: Apache-2.0
"""A request for token ids, or for more top log-probabilities, than the vocabulary has is refused.

SGLang looks any id up in the embedding, any count up by topk, and with a minimum of new tokens any
stop token's logit: an exception in the scheduler that ends the server for all its clients, seen on
the CPU. So does an empty prompt in a batch. Ids beside media are no exception: Gemma 4's
placeholders are tokens of its vocabulary, and SGLang puts its hashes in their place later.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch

CREATE = "sglang.srt.managers.tokenizer_manager.TokenizerManager._create_tokenized_object"


def _check(
    self: Any,
    obj: Any,
    input_text: str | None,
    input_ids: Sequence[int] | None,
    input_embeds: Any = None,
    *args: Any,
    **kwargs: Any,
) -> None:
    """BEFORE _create_tokenized_object, which every prompt goes through; ValueError is a 400."""
    size = self.model_config.vocab_size
    top = getattr(obj, "top_logprobs_num", None)
    if isinstance(top, int) and not 0 <= top <= size:
        raise ValueError(f"top log-probabilities of a token are 0 to {size} in number")
    if input_ids is not None and input_embeds is None and not len(input_ids):
        raise ValueError("the prompt has no tokens")
    if input_ids is not None and len(input_ids) and not _within(input_ids, size):
        raise ValueError(f"the prompt holds token ids outside the vocabulary, 0 to {size - 1}")
    params = getattr(obj, "sampling_params", None)
    if isinstance(params, dict) and params.get("stop_token_ids") is not None:
        _check_stops(params["stop_token_ids"], size)


def _within(ids: Sequence[int], size: int) -> bool:
    return min(ids) >= 0 and max(ids) < size


def _check_stops(tokens: Any, size: int) -> None:
    """As SGLang reads them: anything that int() takes, and None, which is left out."""
    try:
        ids = [int(token) for token in tokens if token is not None]
        within = not ids or _within(ids, size)
    except (TypeError, ValueError, OverflowError):
        within = False
    if not within:
        raise ValueError(
            f"stop_token_ids is not a list of tokens of the vocabulary, 0 to {size - 1}"
        )


def _retired() -> bool:
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

    source = inspect.getsource(inspect.unwrap(TokenizerManager._validate_one_request))
    return "vocab_size" in source


PATCH = Patch(
    name="request_within_vocabulary",
    summary="Token ids outside the vocabulary, more top log-probabilities than it has: refused",
    why="SGLang checks none of it: one request with the id -1, with logprobs = 1000000, with a "
    "minimum length and the stop token 1000000, or with an empty prompt in a batch, ends the "
    "scheduler, and the server with it",
    upstream="unreported",
    retire_when="TokenizerManager._validate_one_request compares token ids with vocab_size",
    retired=_retired,
    hooks=(Hook(CREATE, "4e62a4179d7a", "before", _check),),
    required=False,
)
