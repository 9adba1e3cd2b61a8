# SPDX-License-Identifier: Apache-2.0
"""Run sglang.bench_serving on stock SGLang and SGLang with the extension, in turn.

    python -m bench.serving --out bench/results/serving_NAME.jsonl -- --model-path MODEL
    python -m bench.serving --smoke --out FILE -- --model-path sglang_gemma4_ext/demo/model

Both servers get the flags after `--`, one after the other on this machine. --mtp names an assistant
and repeats everything with drafts. --smoke has toy lengths: it shows that the comparison runs, and
measures no speed. Its table (.md) and its plot (.png) are written beside FILE.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.conditions import conditions, without_folders, write
from bench.servers import SIDES
from bench.serving import SMOKE_NOTE, plot, report
from bench.serving.measure import Setup, measure
from bench.serving.workloads import chosen

MODEL = "--model-path"
# SGLang counts accepted drafts when it logs a decode step, by default every 40th.
SMOKE_FLAGS = ("--decode-log-interval", "1")
STEPS = ("--speculative-algorithm", "NEXTN", "--speculative-num-steps", "3",
         "--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", "4")  # fmt: skip


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse our arguments, and SGLang's after `--`. Exits with status 2 on bad ones."""
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="rows as JSON lines")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--workload", action="append", help="by name, or `sweep`; repeatable")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--mtp", metavar="ASSISTANT", help="and again with this assistant's drafts")
    parser.add_argument("--extension-flags", default="", help="flags for the extension alone")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--smoke", action="store_true", help="toy lengths, no claim of speed")
    parser.add_argument("--start-s", type=float, default=1200, help="for a server to be ready")
    parser.add_argument("--workload-s", type=float, default=3600, help="for one workload")
    parser.add_argument("--logs", type=Path, help="folder for the servers' logs")
    args, flags = parser.parse_args(argv[:at]), argv[at + 1 :]
    if MODEL not in flags[:-1]:
        parser.error(f"say what to serve: `-- {MODEL} MODEL` and any flag of SGLang")
    try:
        args.workloads = chosen(args.workload, args.smoke)
    except ValueError as error:
        parser.error(str(error))
    if any("=" not in pair for pair in args.env):
        parser.error("--env takes NAME=VALUE")
    return args, flags


def setup(args: argparse.Namespace, flags: list[str]) -> Setup:
    tokenizer = "--tokenizer-path" if "--tokenizer-path" in flags else MODEL
    drafts = ("--speculative-draft-model-path", args.mtp, *STEPS) if args.mtp else ()
    return Setup(
        flags=(*flags, *SMOKE_FLAGS) if args.smoke else tuple(flags),
        tokenizer=flags[flags.index(tokenizer) + 1],
        mtp=drafts,
        extension_flags=tuple(shlex.split(args.extension_flags)),
        start_s=args.start_s,
        workload_s=args.workload_s,
        env=dict(pair.split("=", 1) for pair in args.env),
    )


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args, flags = parse(argv)
    common = {
        "model": Path(flags[flags.index(MODEL) + 1]).name,
        "smoke": args.smoke,
        "flags": flags,
        **conditions(shlex.join(["python", "-m", "bench.serving", *argv])),
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        sides = [SIDES[name] for name in args.sides]
        folder = args.logs or Path(work)
        for row in measure(setup(args, flags), sides, args.workloads, args.repeats, folder):
            rows.append(without_folders(common | row))
            write(rows, args.out)
            print(_line(row), file=sys.stderr, flush=True)
    title = f"{common['model']} on {common['machine']}{' (smoke run)' if args.smoke else ''}"
    text = f"{title}\n\n{SMOKE_NOTE + chr(10) * 2 if args.smoke else ''}{report.table(rows)}\n"
    args.out.with_suffix(".md").write_text(text)
    plot.draw(rows, args.out.with_suffix(".png"), title)
    print(text)
    return 1 if any("failed" in row for row in rows) else 0


def _line(row: dict[str, Any]) -> str:
    what = f"{row['repeat']} {row['side']}{', MTP' if row['mtp'] else ''}, {row['workload']}: "
    return what + (row.get("failed") or f"{row['output_throughput']:.1f} output tok/s")


if __name__ == "__main__":
    raise SystemExit(main())
