# SPDX-License-Identifier: Apache-2.0
"""Refuse a request whose `n` is not a whole number from 1 to 1024.

SGLang copies a request n times before it checks any other limit, in the event loop that answers
every client. A body of a hundred bytes with n = 1,000,000 blocks the server for everybody. 1024 is
eight times the limit of OpenAI's API; ask for more samples in several requests.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch

REQUEST = "sglang.srt.managers.io_struct.GenerateReqInput"
MOST = 1024


def _check_n(self: Any) -> None:
    """BEFORE GenerateReqInput._handle_parallel_sampling, which reads n. ValueError: a 400."""
    params = self.sampling_params
    if params == []:
        raise ValueError("sampling_params is an empty list")
    for one in params if isinstance(params, list) else [params]:
        n = one.get("n", 1) if isinstance(one, dict) else 1
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST:
            shown = n if isinstance(n, int) and abs(n) < 2**63 else "given"
            raise ValueError(f"n must be a whole number from 1 to {MOST}, not {shown}")


def _retired() -> bool:
    from sglang.srt.managers.io_struct import GenerateReqInput

    return "must" in inspect.getsource(inspect.unwrap(GenerateReqInput._handle_parallel_sampling))


PATCH = Patch(
    name="request_samples",
    theme="requests",
    summary="A request whose n is not a whole number from 1 to 1024 is refused",
    why="SGLang expands n samples in its event loop before any check; one request with n = 10^6 "
    "stops the server from answering",
    upstream="unreported",
    retire_when="GenerateReqInput._handle_parallel_sampling bounds n",
    retired=_retired,
    hooks=(Hook(f"{REQUEST}._handle_parallel_sampling", "26012f2f89c7", "before", _check_n),),
    required=False,
)
