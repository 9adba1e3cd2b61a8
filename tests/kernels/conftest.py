# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of our own run on the GPU where there is one, else in Triton's interpreter.

The interpreter is chosen when Triton is imported. It keeps BF16 as bit patterns and multiplies
those; `mended_bf16` is what the server's patch `cpu_interpreter_bf16` does about it.
"""

from __future__ import annotations

import functools
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def mended_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """BF16 arithmetic right in the interpreter, by the very hooks that the server applies."""
    if torch.cuda.is_available():
        return
    from sglang_gemma4_ext.patches.cpu_interpreter_bf16 import PATCH
    from sglang_gemma4_ext.registry import resolve

    for hook in PATCH.hooks:
        owner, _, name = hook.target.rpartition(".")
        original = resolve(hook.target)
        wrapped = functools.wraps(original)(_around(hook.fn, original))
        monkeypatch.setattr(f"{owner}.{name}", wrapped)


def _around(fn, original):
    return lambda *args, **kwargs: fn(original, *args, **kwargs)
