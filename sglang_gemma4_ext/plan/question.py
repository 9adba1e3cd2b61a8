# SPDX-License-Identifier: Apache-2.0
"""What is asked of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_gemma4_ext.plan.geometry import Geometry, PlanError
from sglang_gemma4_ext.plan.weights import Weights


@dataclass(frozen=True)
class Wish:
    """What is to be served on what. None leaves the choice to the plan.

    memory: bytes of one GPU as nvidia-smi reports them.
    draft_bytes: weights of a speculative draft, whose KV is the target's own.
    draft_layers: its layers, for each of which stock SGLang reserves KV all the same.
    policy: auto, seed or upstream; see pools.py.
    ours: with the extension's patches; False plans stock SGLang 0.5.23.
    note: what to know of the plan besides.
    """

    geometry: Geometry
    weights: Weights
    memory: int
    tp: int = 1
    context: int | None = None
    requests: int | None = None
    chunk: int | None = None
    mem_fraction: float | None = None
    swa_ratio: float | None = None
    kv_dtype_bytes: int = 2
    draft_bytes: int = 0
    draft_layers: int = 0
    draft_tokens: int = 1
    page: int = 1
    policy: str = "auto"
    low_memory: bool = False
    ours: bool = True
    note: str = ""


def check(wish: Wish) -> None:
    """Raises PlanError on a wish that contradicts itself or its model."""
    most = wish.geometry.max_context
    if wish.context is not None and wish.context > most:
        raise PlanError(
            f"--context-length {wish.context} is above the {most} tokens that "
            f"{wish.geometry.name} was made for"
        )
    for flag, value in (
        ("--context-length", wish.context),
        ("--max-running-requests", wish.requests),
        ("--chunked-prefill-size", wish.chunk),
        ("--tp", wish.tp),
    ):
        if value is not None and value < 1:
            raise PlanError(f"{flag} must be at least 1, not {value}")
    if wish.geometry.heads % wish.tp:
        raise PlanError(f"--tp {wish.tp} does not divide {wish.geometry.heads} query heads")
    if wish.mem_fraction is not None and not 0 < wish.mem_fraction < 1:
        raise PlanError(f"--mem-fraction-static must be between 0 and 1, not {wish.mem_fraction}")
    if wish.swa_ratio is not None and not 0 < wish.swa_ratio <= 1:
        raise PlanError(
            f"--swa-full-tokens-ratio must be above 0 and at most 1, not {wish.swa_ratio}"
        )
