# SPDX-License-Identifier: Apache-2.0
"""Draw plans as stacked bars in a PNG, with Pillow, which SGLang depends on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sglang_gemma4_ext.plan.answer import Plan
from sglang_gemma4_ext.plan.colours import COLOURS
from sglang_gemma4_ext.plan.geometry import PlanError
from sglang_gemma4_ext.plan.sizes import GIB

WIDTH, MARGIN, BAR, GAP, KEY = 1100, 40, 54, 82, 26
SCALE = WIDTH - 2 * MARGIN
INK, PAPER, LIMIT = "#1f2430", "#ffffff", "#c0392b"


def draw(plans: Sequence[tuple[str, Plan]], file: Path) -> None:
    """Write titled plans as one bar each, to a common scale. Raises PlanError if it cannot."""
    names = list(dict.fromkeys(name for _, plan in plans for name in plan.parts))
    font, small = ImageFont.load_default(20), ImageFont.load_default(16)
    height = 2 * MARGIN + len(plans) * (BAR + GAP) + KEY * ((len(names) + 1) // 2)
    image = Image.new("RGB", (WIDTH, height), PAPER)
    pen = ImageDraw.Draw(image)
    widest = max(max(plan.question.memory, _needed(plan)) for _, plan in plans)
    y = MARGIN
    for title, plan in plans:
        pen.text((MARGIN, y), title, INK, font)
        _bar(pen, y + 32, plan, SCALE / widest, small)
        y += BAR + GAP
    for i, name in enumerate(names):
        x, row = MARGIN + (i % 2) * SCALE // 2, y + (i // 2) * KEY
        pen.rectangle((x, row, x + 16, row + 16), COLOURS[name])
        pen.text((x + 26, row - 2), name, INK, small)
    try:
        image.save(file)
    except (OSError, ValueError) as error:
        raise PlanError(f"--plot {file} cannot be written: {error}") from None


def _needed(plan: Plan) -> int:
    return sum(size for size in plan.parts.values() if size > 0)


def _bar(
    pen: ImageDraw.ImageDraw,
    y: int,
    plan: Plan,
    pixels: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Draw segments, with their GiB if there is room, and a line at the GPU's memory."""
    x = float(MARGIN)
    for name, size in plan.parts.items():
        if size <= 0:
            continue
        end = x + size * pixels
        pen.rectangle((x, y, end, y + BAR), COLOURS[name])
        label = f"{size / GIB:.1f}"
        if pen.textlength(label, font) + 8 < end - x:
            dark = sum(int(COLOURS[name][i : i + 2], 16) for i in (1, 3, 5)) < 380
            pen.text((x + 4, y + BAR // 2 - 9), label, PAPER if dark else INK, font)
        x = end
    limit = MARGIN + plan.question.memory * pixels
    pen.line((limit, y - 4, limit, y + BAR + 4), LIMIT, 3)
    label = f"{plan.question.memory / GIB:.1f} GiB: end of the GPU's memory"
    left = min(limit, WIDTH - MARGIN) - pen.textlength(label, font)
    pen.text((max(MARGIN, left), y + BAR + 4), label, LIMIT, font)
