# SPDX-License-Identifier: Apache-2.0
"""Find the hook functions of a patch's record as SGLang gets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.registry import HookKind, Patch


def hook_of(patch: Patch, kind: HookKind, name: str) -> Callable[..., Any]:
    """Return the function that `patch` hooks as `kind` to the target whose last part is `name`."""
    (found,) = (h for h in patch.hooks if h.target.rpartition(".")[2] == name)
    assert found.kind == kind
    return found.fn
