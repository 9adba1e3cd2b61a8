# SPDX-License-Identifier: Apache-2.0
"""Count the rows and columns that Humming adds to 4-bit weights.

A shape must be a multiple of its smallest tile. Its tiles for Hopper have at least 256 rows where a
weight is large. Gemma 4's experts need no padding elsewhere, unless tensor parallelism cuts them.
"""

from __future__ import annotations

from sglang_gemma4_ext.plan.geometry import Geometry

ROWS, ROWS_HOPPER, COLUMNS = 64, 256, 64
HOPPER = (9, 0)


def row_multiple(capability: tuple[int, int]) -> int:
    """Return of what Humming's rows are a multiple."""
    return ROWS_HOPPER if capability >= HOPPER else ROWS


def padded(rows: int, columns: int, capability: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns that Humming stores for a weight."""
    multiple = row_multiple(capability)
    return -(-rows // multiple) * multiple, -(-columns // COLUMNS) * COLUMNS


def growth_of_experts(geometry: Geometry, capability: tuple[int, int], tp: int = 1) -> float:
    """Return by which part the experts of a mixture grow on one GPU."""
    inner, hidden = geometry.expert_intermediate // tp, geometry.hidden
    shapes = ((2 * inner, hidden), (hidden, inner))
    stored = (padded(*shape, capability) for shape in shapes)
    return sum(n * k for n, k in stored) / sum(n * k for n, k in shapes) - 1
