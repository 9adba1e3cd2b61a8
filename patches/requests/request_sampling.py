# SPDX-License-Identifier: Apache-2.0
"""Refuse numbers of a request that SGLang's tensors cannot hold.

SGLang puts top_k and min_new_tokens into int32 tensors. With a minimum of new tokens it looks up
the logit of each stop token. A value that does not fit raises in the scheduler and ends the server
for all clients. On a GPU a stop token beyond the vocabulary writes out of bounds.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch

VERIFY = "sglang.srt.sampling.sampling_params.SamplingParams.verify"
MOST = 2**31 - 1


def _check(self: Any, vocab_size: int) -> None:
    """BEFORE verify, which sees every request's parameters. A ValueError becomes a 400."""
    for name in ("top_k", "min_new_tokens"):
        value = getattr(self, name)
        if isinstance(value, int | float) and value > MOST:
            raise ValueError(f"{name} must be at most {MOST}")
    stops = self.stop_token_ids or ()
    if not all(0 <= token < vocab_size for token in stops):
        raise ValueError(f"stop_token_ids must be tokens of the vocabulary, 0 to {vocab_size - 1}")


def _retired() -> bool:
    from sglang.srt.sampling.sampling_params import SamplingParams

    source = inspect.getsource(inspect.unwrap(SamplingParams.verify))
    return "stop_token_ids" in source


PATCH = Patch(
    name="request_sampling",
    theme="requests",
    summary="top_k or min_new_tokens beyond 32 bits, and unknown stop tokens, are refused",
    why="SGLang checks none of them; one request with top_k = 10^12, or with a minimum length and "
    "the stop token 10^9, ends the scheduler and the server",
    upstream="unreported",
    retire_when="SamplingParams.verify compares stop_token_ids with vocab_size",
    retired=_retired,
    hooks=(Hook(VERIFY, "05df6655b7a1", "before", _check),),
    required=False,
)
