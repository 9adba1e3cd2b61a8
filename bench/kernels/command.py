# SPDX-License-Identifier: Apache-2.0
"""Parse the command lines of the kernel benches, and write their rows."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton

from bench.rows import as_line


def arguments(description: str, table: str) -> argparse.ArgumentParser:
    """Make a parser with --out, --write-table of the file or folder `table`, and --toy."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, help="JSON lines")
    parser.add_argument("--write-table", action="store_true", help=table)
    parser.add_argument("--toy", action="store_true", help="small sizes, no times")
    return parser


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; exit with one sentence if nothing can be timed."""
    args = parser.parse_args(argv)
    if not torch.cuda.is_available() and not (args.toy and triton.knobs.runtime.interpret):
        parser.error("needs an NVIDIA GPU; without one: TRITON_INTERPRET=1 ... --toy")
    if args.write_table and (args.toy or args.out is None):
        parser.error("--write-table needs --out, and times")
    return args


def written(rows: Iterable[dict[str, Any]], out: Path | None) -> list[dict[str, Any]]:
    """Print and write each row as it comes, as a JSON line, and return them all."""
    kept = []
    with out.open("w") if out else contextlib.nullcontext() as file:
        for row in rows:
            line = as_line(row)
            print(line, flush=True)
            if file:
                file.write(line + "\n")
                file.flush()
            kept.append(row)
    return kept
