# SPDX-License-Identifier: Apache-2.0
"""Plan one model for many cards and formats, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sglang_gemma4_ext.plan import search, served
from sglang_gemma4_ext.plan.answer import NEW_TOKENS, Plan
from sglang_gemma4_ext.plan.cards import CARDS, Card
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.sizes import GIB

EXACT = "bf16"
FORMATS = (EXACT, "fp8", "nvfp4")
TYPICAL = (8192, 1024)


@dataclass(frozen=True)
class Machine:
    """Describe `count` cards of one kind that share a model by tensor parallelism."""

    card: Card
    count: int = 1

    @property
    def title(self) -> str:
        """Name the cards, such as `2 x RTX 3090`."""
        return f"{self.count} x {self.card.title}" if self.count > 1 else self.card.title


MACHINES = (
    *(Machine(card) for card in CARDS.values() if card.key != "b200"),
    Machine(CARDS["rtx3090"], 2),
)


@dataclass(frozen=True)
class Row:
    """Hold one model's plan in one format on one machine.

    kv8_tokens: the longest request with 8-bit KV, 0 where that is not longer or does not run
    """

    machine: Machine
    fmt: str
    plan: Plan
    kv8_tokens: int = 0

    @property
    def context(self) -> int:
        """Return the longest request, 0 if none fits."""
        return self.plan.longest_request if self.plan.fits else 0

    @property
    def at_once(self) -> int:
        """Return how many requests of TYPICAL length run at once, or of the longest if shorter."""
        if self.context >= sum(TYPICAL):
            return self.plan.concurrent[TYPICAL]
        whole = (self.context - NEW_TOKENS, NEW_TOKENS)
        return self.plan.concurrent.get(whole, min(self.context, 1))


def rows(model: str, machines: Iterable[Machine] = MACHINES) -> list[Row]:
    """Plan a released model on each machine in each format."""
    return [_row(model, machine, fmt) for machine in machines for fmt in FORMATS]


def plan_of(model: str, machine: Machine, fmt: str) -> Plan:
    """Return the best plan of a released model in a format on a machine."""
    return search.best(_question(model, machine, fmt))


def _question(model: str, machine: Machine, fmt: str) -> Question:
    subject = served.read(model, fmt=fmt, tp=machine.count)
    return Question(
        geometry=subject.geometry,
        weights=subject.weights,
        memory=machine.card.memory,
        capability=machine.card.capability,
        card=machine.card.title,
        tp=machine.count,
    )


def _row(model: str, machine: Machine, fmt: str) -> Row:
    question = _question(model, machine, fmt)
    plan, longer = search.best(question), 0
    if question.runs_e4m3 and question.is_free:
        narrow = search.best(replace(question, kv_dtype="fp8_e4m3"))
        longer = narrow.longest_request if narrow.fits else 0
    own = plan.longest_request if plan.fits else 0
    return Row(machine, fmt, plan, longer if longer > own else 0)


def table(found: Sequence[Row]) -> str:
    """Write rows as text: card, format, longest request, requests at once, with 8-bit KV."""
    typical = f"{TYPICAL[0]:,} + {TYPICAL[1]:,} at once"
    head = ("GPU", "memory", "weights", "longest request", typical, "with kv8")
    lines = [
        (
            row.machine.title,
            f"{row.machine.count * row.machine.card.memory / GIB:.1f} GiB",
            row.fmt,
            f"{row.context:,}" if row.context else "does not fit",
            f"{row.at_once:,}" if row.context else "",
            f"{row.kv8_tokens:,}" if row.kv8_tokens else "",
        )
        for row in found
    ]
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, 2) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *lines]
    )
