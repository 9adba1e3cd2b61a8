# SPDX-License-Identifier: Apache-2.0
"""Draw the longest request of one model against the card, a series a format, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from xml.sax.saxutils import escape

from sglang_gemma4_ext.plan.compare import FORMATS, Row
from sglang_gemma4_ext.plan.sizes import GIB

# One colour and mark for each format, the same in every figure; they differ in lightness, too.
COLOURS = {"bf16": "#1d4e89", "fp8": "#e08214", "nvfp4": "#2a9d60"}
INK, GRID = "#1f2430", "#d5d9e0"
LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 90, 60, 800, 300
WIDTH, HEIGHT = LEFT + PLOT_WIDTH + 30, TOP + PLOT_HEIGHT + 170
TICKS = tuple(1 << power for power in range(10, 19, 2))  # 1,024 to 262,144 tokens


def draw(model: str, rows: Sequence[Row]) -> str:
    """Return the figure. A card on which nothing fits keeps its place, without a mark."""
    machines = list(dict.fromkeys(row.machine for row in rows))
    machines.sort(key=lambda machine: machine.count * machine.card.memory)
    step = PLOT_WIDTH / len(machines)
    xs = {machine: LEFT + step * (i + 0.5) for i, machine in enumerate(machines)}
    title = f"Gemma 4 {model}: longest request by card and weights, BF16 keys and values"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="26" font-size="16">{escape(title)}</text>',
        *_axes(),
    ]
    for machine, x in xs.items():
        label = f"{machine.title}, {machine.count * machine.card.memory / GIB:.0f} GiB"
        at = f"{x:.1f},{TOP + PLOT_HEIGHT + 16}"
        where = f'text-anchor="end" transform="translate({at}) rotate(-40)"'
        parts.append(f"<text {where}>{escape(label)}</text>")
    for i, fmt in enumerate(FORMATS):
        parts += _series(fmt, i, [(xs[row.machine], row.context) for row in rows if row.fmt == fmt])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes() -> list[str]:
    found = []
    right = LEFT + PLOT_WIDTH
    for tick in TICKS:
        y = _y(tick)
        found += [
            f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>',
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,}</text>',
        ]
    middle = TOP + PLOT_HEIGHT / 2
    return [
        *found,
        f'<text text-anchor="middle" transform="translate(18,{middle}) rotate(-90)">'
        "longest request, tokens</text>",
        f'<text x="{LEFT + PLOT_WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        "card, by memory</text>",
    ]


def _series(fmt: str, index: int, points: Sequence[tuple[float, int]]) -> list[str]:
    """Return the marks of a format and its entry in the legend."""
    shift, colour = (index - 1) * 11, COLOURS[fmt]
    marks = [
        f'<circle cx="{x + shift:.1f}" cy="{_y(context):.1f}" r="5" fill="{colour}">'
        f"<title>{fmt}: {context:,} tokens</title></circle>"
        for x, context in points
        if context
    ]
    x = LEFT + index * 130
    return [
        *marks,
        f'<circle cx="{x + 5}" cy="42" r="5" fill="{colour}"/>',
        f'<text x="{x + 16}" y="46">{fmt.upper()} weights</text>',
    ]


def _y(tokens: int) -> float:
    low, high = log2(TICKS[0]), log2(TICKS[-1])
    share = (log2(max(tokens, TICKS[0])) - low) / (high - low)
    return TOP + PLOT_HEIGHT * (1 - share)
