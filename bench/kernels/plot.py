# SPDX-License-Identifier: Apache-2.0
"""Plot the NVFP4 benchmark as SVG: for each shape bandwidth over M, with a line for a provider."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, MARGIN, COLUMNS = 260, 180, 36, 4
COLORS = {
    "fused": "#0a7",
    "marlin": "#c50",
    "humming": "#a3a",
    "dequantize_then_matmul": "#888",
    "cublas_bf16": "#05a",
}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw a panel for each operation and shape; a row without a time or an M has no point."""
    timed = [row for row in rows if "gb_s" in row and row["m"]]
    panels = list(dict.fromkeys((row["op"], row["shape"]) for row in rows if row["m"]))
    top = max((row["gb_s"] for row in timed), default=1.0)
    height = (MARGIN + HEIGHT) * math.ceil(len(panels) / COLUMNS) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{COLUMNS * WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="10">'
    ]
    for i, (name, color) in enumerate(COLORS.items()):
        parts.append(f'<text x="{MARGIN + 180 * i}" y="14" fill="{color}">{name}</text>')
    for i, (op, shape) in enumerate(panels):
        x, y = (i % COLUMNS) * WIDTH, MARGIN + (i // COLUMNS) * (HEIGHT + MARGIN)
        parts.append(f'<g transform="translate({x},{y})">')
        parts.append(f'<text x="{MARGIN}" y="0">{op} {shape}: GB/s (to {top:.0f}) over M</text>')
        parts.append(f'<path d="M{MARGIN},8V{HEIGHT - 16}H{WIDTH - 8}" fill="none" stroke="#333"/>')
        parts += _lines([row for row in timed if (row["op"], row["shape"]) == (op, shape)], top)
        parts.append("</g>")
    path.write_text("\n".join([*parts, "</svg>\n"]))


def _lines(rows: list[dict[str, Any]], top: float) -> list[str]:
    lines = []
    for provider, color in COLORS.items():
        points = [
            f"{_x(row['m']):.1f},{8 + (HEIGHT - 24) * (1 - row['gb_s'] / top):.1f}"
            for row in rows
            if row["provider"] == provider
        ]
        if points:
            joined = " ".join(points)
            lines.append(f'<polyline points="{joined}" fill="none" stroke="{color}"/>')
    ticks = sorted({row["m"] for row in rows})
    return lines + [f'<text x="{_x(m):.0f}" y="{HEIGHT - 4}">{m}</text>' for m in ticks[::3]]


def _x(m: int) -> float:
    return MARGIN + (WIDTH - MARGIN - 8) * math.log2(m) / 12
