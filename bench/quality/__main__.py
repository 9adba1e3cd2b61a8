# SPDX-License-Identifier: Apache-2.0
"""Run MMLU on stock SGLang, SGLang with the extension and any OpenAI-compatible endpoint.

    python -m bench.quality --data MMLU [--out FILE] [--endpoint URL] -- SGLANG'S FLAGS
    python -m bench.quality --data demo --variants --out bench/results/quality_demo.jsonl

MMLU is the folder of a local copy of cais/mmlu, or a JSON-lines file in its columns. `demo` is the
bundled model's question set. Each server is started with the flags after `--`, asked and ended, one
after the other. --variants instead serves the demo in every form, and in forms broken on purpose.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.conditions import conditions, without_folders, write
from bench.quality import mmlu, report
from bench.quality.harness import Asking
from bench.quality.run import ask_endpoint, ask_server
from bench.quality.variants import variants
from bench.servers import EXTENSION, SIDES

CHAT_TOKENS = 1024
DEMO_CHAT_TOKENS = 24


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse our arguments, and SGLang's after `--`. Exits with status 2 on bad ones."""
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", required=True, help="folder, JSON-lines file, or `demo`")
    parser.add_argument("--count", type=int, default=500, help="questions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their draw (default: %(default)s)")
    parser.add_argument("--shots", type=int, help="examples each (default: 5, for the demo 0)")
    parser.add_argument("--chat", action="store_true", help="ask as a chat, and parse the reply")
    parser.add_argument("--chat-tokens", type=int, help="the most tokens of a chat's reply")
    parser.add_argument("--concurrency", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--extension-flags", default="", help="flags for the extension alone")
    parser.add_argument("--endpoint", action="append", default=[], help="URL up to and with /v1")
    parser.add_argument("--variants", action="store_true", help="the demo in all its forms")
    parser.add_argument("--only", action="append", help="of the variants, those with this name")
    parser.add_argument("--out", type=Path, help="write the rows as JSON lines")
    parser.add_argument("--logs", type=Path, help="folder for the servers' logs")
    args, flags = parser.parse_args(argv[:at]), argv[at + 1 :]
    if args.shots is None:
        args.shots = 0 if args.data == "demo" else 5
    if args.variants and (args.data != "demo" or flags):
        parser.error("--variants serves the demo itself: use --data demo, and no flags after --")
    if args.only and not args.variants:
        parser.error("--only chooses among variants: add --variants")
    unknown = set(args.only or ()) - {variant.name for variant in variants()}
    if unknown:
        names = ", ".join(variant.name for variant in variants())
        parser.error(f"no variant is named {unknown.pop()!r}: choose from {names}")
    if not (args.variants or flags or args.endpoint):
        parser.error("say what to serve: `-- --model-path MODEL`, --endpoint URL, or --variants")
    return args, flags


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args, flags = parse(argv)
    try:
        questions = (
            mmlu.demo(args.count)
            if args.data == "demo"
            else mmlu.read(Path(args.data), args.count, args.seed)
        )
        questions.need(args.shots)
    except mmlu.DataError as error:
        print(f"bench.quality: {error}", file=sys.stderr)
        return 2
    common = {
        "data": Path(args.data).name,
        "seed": args.seed,
        **conditions(shlex.join(["python", "-m", "bench.quality", *argv])),
    }
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for row in _measure(args, flags, questions, Path(work)):
            rows.append(without_folders(common | row))
            if args.out:
                write(rows, args.out)
            print(report.line(rows[-1]), file=sys.stderr, flush=True)
    print(report.table(rows))
    return 1 if any("failed" in row for row in rows) else 0


def _measure(
    args: argparse.Namespace, flags: list[str], questions: mmlu.Questions, work: Path
) -> Iterator[dict[str, Any]]:
    logs, demo = args.logs or work / "logs", args.data == "demo"
    tokens = args.chat_tokens or (DEMO_CHAT_TOKENS if demo else CHAT_TOKENS)
    plain = Asking(args.shots, args.concurrency)
    in_chat = replace(plain, chat_tokens=tokens)
    if args.variants:
        for variant in variants():
            if args.only and variant.name not in args.only:
                continue
            model = variant.make(work / re.sub(r"\W+", "_", variant.name))
            served = ("--model-path", str(model), *variant.flags)
            ways = [plain, in_chat] if variant.chat else [plain]
            for row in ask_server(variant.side, served, questions, ways, logs):
                about = {"name": variant.name, "broken": variant.broken}
                yield row | about | {"flags": list(variant.flags)}
        return
    asking = in_chat if args.chat else plain
    for name in args.sides if flags else ():
        extra = shlex.split(args.extension_flags) if SIDES[name] is EXTENSION else []
        for row in ask_server(SIDES[name], [*flags, *extra], questions, [asking], logs):
            yield {"name": name} | row
    for url in args.endpoint:
        yield {"name": url} | ask_endpoint(url, questions, asking)


if __name__ == "__main__":
    raise SystemExit(main())
