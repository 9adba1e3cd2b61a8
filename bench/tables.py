# SPDX-License-Identifier: Apache-2.0
"""Write the tables of docs/measured.md from bench/results/: `python -m bench.tables [--write]`.

Between `<!-- bench.tables NAME -->` and `<!-- end -->` the page holds what the section NAME of
SECTIONS makes of the raw files. Without --write the two are compared; the status is 1 where they
differ. A section without raw files says that nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from bench.conditions import RESULTS, ROOT
from bench.quality import report as quality_report
from bench.serving import report as serving_report

PAGE = ROOT / "docs" / "measured.md"
MARKED = re.compile(
    r"(?P<open><!-- bench\.tables (?P<name>\w+) -->\n)(?P<body>.*?)(?P<close><!-- end -->)",
    re.DOTALL,
)
NO_GPU = "Not measured: no GPU has run it yet."
Rows = list[dict[str, Any]]


def quality(folder: Path) -> str:
    return _each(folder, "quality_*.jsonl", quality_report.table, "No run is committed.")


def serving(folder: Path) -> str:
    """Tabulate runs at real lengths; smoke runs do not measure speed and are left out."""
    return _each(
        folder, "serving_*.jsonl", serving_report.table, NO_GPU, lambda row: not row["smoke"]
    )


def nvfp4(folder: Path) -> str:
    return _each(folder, "nvfp4_*.jsonl", _nvfp4_table, NO_GPU, lambda row: row["gpu"] is not None)


def router(folder: Path) -> str:
    return _each(
        folder, "router_*.jsonl", _router_table, NO_GPU, lambda row: row["gpu"] is not None
    )


SECTIONS: dict[str, Callable[[Path], str]] = {
    "quality": quality,
    "serving": serving,
    "nvfp4": nvfp4,
    "router": router,
}


def rendered(page: str, folder: Path = RESULTS) -> str:
    """Return the page with every marked section written from the raw files.

    Raises ValueError on a section that does not exist, or is not marked.
    """
    names = [found["name"] for found in MARKED.finditer(page)]
    if sorted(names) != sorted(SECTIONS):
        raise ValueError(f"the page marks {names}, and the sections are {list(SECTIONS)}")

    def section(found: re.Match[str]) -> str:
        return f"{found['open']}{SECTIONS[found['name']](folder)}\n{found['close']}"

    return MARKED.sub(section, page)


def _each(
    folder: Path,
    pattern: str,
    table: Callable[[Rows], str],
    otherwise: str,
    counts: Callable[[dict[str, Any]], bool] = lambda row: True,
) -> str:
    """Make a table for each raw file with rows that count, followed by its conditions."""
    parts = []
    for file in sorted(folder.glob(pattern)):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [row for row in rows if counts(row)]
        if rows:
            parts.append(f"{table(rows)}\n\n{_conditions(rows[0], file)}")
    return "\n\n".join(parts) or otherwise


def _conditions(row: dict[str, Any], file: Path) -> str:
    versions = row.get("versions") or {name: row.get(name) for name in ("torch", "triton")}
    said = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    where = row.get("machine") or row.get("gpu")
    parts = [where, said, row.get("date"), f"commit {row['commit']}" if row.get("commit") else ""]
    command = f"`{row['command']}`; " if "command" in row else ""
    return f"{command}{'; '.join(part for part in parts if part)}; `bench/results/{file.name}`."


def _nvfp4_table(rows: Rows) -> str:
    """Tabulate by M how many times faster the fused kernels are, as geometric mean over shapes."""
    ratios = [row for row in rows if row["provider"] == "ratio"]
    names = list(dict.fromkeys(name for row in ratios for name in row["times_of_fused"]))
    lines = [f"| op | M | {' | '.join(f'{name} / fused' for name in names)} |"]
    lines.append(f"|{' --- |' * (len(names) + 2)}")
    for op, m in sorted({(row["op"], row["m"]) for row in ratios}):
        cells = []
        for name in names:
            found = [
                row["times_of_fused"][name]
                for row in ratios
                if (row["op"], row["m"]) == (op, m) and name in row["times_of_fused"]
            ]
            cells.append(f"{geometric_mean(found):.2f}" if found else "-")
        lines.append(f"| {op} | {m} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _router_table(rows: Rows) -> str:
    """Tabulate microseconds of the whole router by tokens."""
    timed = [row for row in rows if row["op"] == "router" and "median_us" in row]
    names = list(dict.fromkeys(row["provider"] for row in timed))
    lines = [f"| tokens | {' | '.join(f'{name}, µs' for name in names)} |"]
    lines.append(f"|{' --- |' * (len(names) + 1)}")
    for tokens in sorted({row["tokens"] for row in timed}):
        found = {row["provider"]: row["median_us"] for row in timed if row["tokens"] == tokens}
        cells = [f"{found[name]:.1f}" if name in found else "-" for name in names]
        lines.append(f"| {tokens} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    args = parser.parse_args(argv)
    before = PAGE.read_text()
    after = rendered(before)
    if args.write:
        PAGE.write_text(after)
    elif before != after:
        print("docs/measured.md differs from bench/results/: python -m bench.tables --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
