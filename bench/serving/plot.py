# SPDX-License-Identifier: Apache-2.0
"""Draw output throughput as a PNG: bars by workload, whiskers for the spread, with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from bench.serving.report import grouped, spread

WIDTH, LEFT, RIGHT, ROW, TOP = 1000, 330, 190, 26, 64
INK, PAPER, FAILED = "#1f2430", "#ffffff", "#c0392b"
COLOURS = {"stock": "#8a94a6", "extension": "#1d4e89"}


def draw(rows: Sequence[dict[str, Any]], file: Path, title: str) -> None:
    """Draw a bar for each workload, MTP or not, and side; a failed side has none, in red."""
    groups = grouped(rows)
    font = ImageFont.load_default(16)
    found = {key: spread(group, "output_throughput") for key, group in groups.items()}
    most = max((span[2] for span in found.values() if span), default=1.0)
    image = Image.new("RGB", (WIDTH, TOP + ROW * len(groups) + 20), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((16, 12), title, INK, ImageFont.load_default(20))
    pen.text((16, 40), "output tokens a second; median, and least to most", INK, font)
    for number, ((workload, mtp, side), span) in enumerate(found.items()):
        y = TOP + ROW * number
        pen.text((16, y), f"{workload}{', MTP' if mtp else ''}: {side}", INK, font)
        if span is None:
            pen.text((LEFT, y), "failed", FAILED, font)
            continue
        middle, low, high = (LEFT + value / most * (WIDTH - LEFT - RIGHT) for value in span)
        pen.rectangle((LEFT, y, middle, y + ROW - 8), COLOURS.get(side, INK))
        centre = y + (ROW - 8) / 2
        pen.line((low, centre, high, centre), FAILED, 2)
        pen.text((high + 8, y), f"{span[0]:.1f}", INK, font)
    image.save(file)
