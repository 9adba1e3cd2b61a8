# SPDX-License-Identifier: Apache-2.0
"""Refuse token ids, and numbers of log-probabilities, beyond the vocabulary.

SGLang looks any id up in the embedding, and passes any number to topk. Both raise in the scheduler
and end the server for all clients, as seen on the CPU. So do an empty prompt in a batch, and
log-probabilities from before the prompt's beginning. Prompts with media are checked too: Gemma 4's
placeholders are tokens of its vocabulary, and SGLang replaces them by hashes later.
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
    """BEFORE _create_tokenized_object, which sees every prompt. A ValueError becomes a 400."""
    size = self.model_config.vocab_size
    top = getattr(obj, "top_logprobs_num", None)
    if isinstance(top, int) and not 0 <= top <= size:
        raise ValueError(f"the number of top log-probabilities must be from 0 to {size}")
    start = getattr(obj, "logprob_start_len", None)
    if isinstance(start, int) and start < -1:
        raise ValueError("logprob_start_len must be -1 or a position in the prompt")
    if input_ids is not None and input_embeds is None and not len(input_ids):
        raise ValueError("the prompt has no tokens")
    if input_ids is not None and len(input_ids) and not _within(input_ids, size):
        raise ValueError(f"the prompt holds token ids outside the vocabulary, 0 to {size - 1}")


def _within(ids: Sequence[Any], size: int) -> bool:
    try:
        return min(ids) >= 0 and max(ids) < size
    except TypeError:  # a list of lists, beside a text
        return False


def _retired() -> bool:
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

    source = inspect.getsource(inspect.unwrap(TokenizerManager._validate_one_request))
    return "vocab_size" in source


PATCH = Patch(
    name="request_tokens",
    theme="requests",
    summary="Token ids and numbers of top log-probabilities beyond the vocabulary are refused",
    why="SGLang checks none of them; one request with the id -1, logprobs = 1000000, "
    "logprob_start_len = -7 or an empty prompt in a batch ends the scheduler and the server",
    upstream="unreported",
    retire_when="TokenizerManager._validate_one_request compares token ids with vocab_size",
    retired=_retired,
    hooks=(Hook(CREATE, "4e62a4179d7a", "before", _check),),
    required=False,
)
