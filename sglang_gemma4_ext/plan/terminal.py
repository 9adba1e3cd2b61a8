# SPDX-License-Identifier: Apache-2.0
"""Print a plan on a terminal with colours and bars, by rich, which SGLang's dependencies bring."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_gemma4_ext.plan import report
from sglang_gemma4_ext.plan.answer import Plan
from sglang_gemma4_ext.plan.colours import COLOURS
from sglang_gemma4_ext.plan.options import Option
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.sizes import GIB

BAR = 30


def show(asked: Question, plan: Plan, gains: Sequence[Option] = ()) -> None:
    """Print what report.to_text says. `asked` is the question before the plan chose."""
    console = Console(highlight=False, markup=False)
    console.print(report.title(plan), style="bold")
    console.print()
    for i, line in enumerate(report.verdict(plan)):
        colour = "green" if plan.fits else "red"
        console.print(line, style=f"bold {colour}" if i == 0 else "yellow")
    console.print()
    console.print(_parts(plan))
    for line in report.legend(plan):
        console.print(line, style="dim")
    if not plan.fits:
        return
    console.print()
    for line in report.capacity(asked, plan):
        console.print(line)
    if gains:
        console.print("\nLonger, at a price:", style="bold")
        console.print(_options(gains))
    console.print("\nFlags:", style="bold")
    for flag in plan.flags:
        console.print(f"  {flag}", style="cyan", soft_wrap=True)


def _parts(plan: Plan) -> Table:
    """Return the parts with their sizes and a bar each, in the colours of the pictures."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    held = sum(size for size in plan.parts.values() if size > 0)
    scale = max(plan.question.memory, held)
    for part, size in plan.parts.items():
        bar = "\u2588" * max(0, round(BAR * size / scale))
        table.add_row(f"  {part}", f"{size / GIB:.2f} GiB", Text(bar, style=COLOURS[part]))
    return table


def _options(gains: Sequence[Option]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right", style="green")
    table.add_column(style="cyan")
    table.add_column()
    for gain in gains:
        table.add_row(f"  + {gain.name}", f"{gain.tokens:,} tokens", gain.flags, gain.price)
    return table
