# SPDX-License-Identifier: Apache-2.0
"""Define the workloads: lengths in tokens, number of requests, and concurrency."""

from __future__ import annotations

from dataclasses import dataclass

SEED = 1
SWEEP = (1, 8, 32, 80)


@dataclass(frozen=True)
class Workload:
    """Describe `prompts` requests of random tokens; concurrency None sends them all at once."""

    name: str
    input_tokens: int
    output_tokens: int
    prompts: int
    concurrency: int | None = None
    warmup: int = 2


FULL = (
    Workload("chat", 1000, 1000, 80),
    Workload("summarization", 8000, 1000, 80),
    Workload("decode burst", 64, 1000, 32),
    # As many rounds of requests as keep the slowest point affordable.
    *(Workload(f"sweep {n}", 1000, 1000, max(4, min(2 * n, 80)), n) for n in SWEEP),
)
# The same at a size that a small model on a CPU answers in seconds; not a measure of speed.
SMOKE = (
    Workload("chat", 40, 8, 4, warmup=1),
    Workload("summarization", 160, 8, 4, warmup=1),
    Workload("decode burst", 4, 16, 4, warmup=1),
    *(Workload(f"sweep {n}", 20, 4, n + 1, n, warmup=1) for n in (1, 2)),
)


def chosen(names: list[str] | None, smoke: bool) -> tuple[Workload, ...]:
    """Choose by name or by its first word (`sweep`); all without names.

    Raises ValueError on a name that no workload has.
    """
    every = SMOKE if smoke else FULL
    if not names:
        return every
    for name in names:
        if not any(name in (w.name, w.name.partition(" ")[0]) for w in every):
            names_of_all = ", ".join(w.name for w in every)
            raise ValueError(f"no workload is named {name!r}: choose from {names_of_all}")
    return tuple(w for w in every if {w.name, w.name.partition(" ")[0]} & set(names))
