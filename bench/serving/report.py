# SPDX-License-Identifier: Apache-2.0
"""Write the serving table in Markdown from the rows: medians over repeats with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

COLUMNS = {
    "output tok/s": "output_throughput",
    "total tok/s": "total_throughput",
    "TTFT mean": "mean_ttft_ms",
    "median": "median_ttft_ms",
    "p99": "p99_ttft_ms",
    "TPOT mean": "mean_tpot_ms",
    "median ": "median_tpot_ms",
    "p99 ": "p99_tpot_ms",
    "accept": "accept_length",
    "pool, full": "pool_full_tokens",
    "pool, sliding": "pool_sliding_tokens",
    "peak MiB": "peak_memory_mib",
    "retracted": "retractions",
}
Key = tuple[str, bool, str]


def grouped(rows: Sequence[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """Group rows by (workload, MTP, side), in their order."""
    groups: dict[Key, list[dict[str, Any]]] = {}
    order = sorted(rows, key=lambda row: (row["mtp"], row["side"] != "stock"))
    names = list(dict.fromkeys(row["workload"] for row in rows))
    for row in sorted(order, key=lambda row: names.index(row["workload"])):
        groups.setdefault((row["workload"], row["mtp"], row["side"]), []).append(row)
    return groups


def spread(rows: Sequence[dict[str, Any]], name: str) -> tuple[float, float, float] | None:
    """Return median, minimum and maximum of a figure over the repeats that have it."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return (median(values), min(values), max(values)) if values else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Draw a line per workload and side; a failed side's line has the reason."""
    head = ["workload", "MTP", "side", *COLUMNS]
    lines = [_line(head), _line(["---"] * len(head))]
    for (workload, mtp, side), repeats in grouped(rows).items():
        cells = [workload, "on" if mtp else "off", side]
        failed = [row["failed"] for row in repeats if "failed" in row]
        if len(failed) == len(repeats):
            lines.append(_line([*cells, f"failed: {failed[0]}", *[""] * (len(COLUMNS) - 1)]))
            continue
        if failed:
            cells[-1] += f" ({len(failed)} of {len(repeats)} repeats failed: {failed[0]})"
        cells += [_figure(spread(repeats, name)) for name in COLUMNS.values()]
        lines.append(_line(cells))
    return "\n".join(lines)


def _figure(found: tuple[float, float, float] | None) -> str:
    if found is None:
        return "-"
    middle, low, high = map(_number, found)
    return middle if low == high else f"{middle} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.strip().replace('|', '/') for cell in cells)} |"
