# SPDX-License-Identifier: Apache-2.0
"""Plan whether a model fits a GPU, and how to serve it: `python -m sglang_gemma4_ext.plan`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, get_args

from sglang_gemma4_ext import PREFIX, pipes
from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.plan import options, planner, report, search, served
from sglang_gemma4_ext.plan.answer import Plan
from sglang_gemma4_ext.plan.cards import CARDS, find_card
from sglang_gemma4_ext.plan.geometry import BUILT_IN, PlanError
from sglang_gemma4_ext.plan.question import KV_DTYPE_BYTES, Question, parse_allowed
from sglang_gemma4_ext.plan.sizes import parse_size
from sglang_gemma4_ext.plan.weights import FORMATS
from sglang_gemma4_ext.settings import Attention, Head, Ple, SwaPolicy


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one sentence, without the whole usage."""
        self.exit(2, f"{PREFIX}{message}; --help lists all flags\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m sglang_gemma4_ext.plan", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model-path", "--model", required=True, metavar="DIR|CONFIG.JSON|NAME",
        help=f"a checkpoint, its config.json, or one of {', '.join(BUILT_IN)}")  # fmt: skip
    add("--gpu", help=f"one of {', '.join(CARDS)}, or its name as nvidia-smi prints it")
    add("--memory", help="of one GPU, such as 24GiB or 24, instead of --gpu")
    add("--weights", choices=FORMATS, help="format of the weights, if there are no files to sum")
    add("--context-length", type=int)
    add("--max-running-requests", type=int)
    add("--chunked-prefill-size", type=int)
    add("--tp", "--tp-size", "--tensor-parallel-size", type=int, default=1)
    add("--kv-cache-dtype", choices=KV_DTYPE_BYTES, default="auto")
    add("--mem-fraction-static", type=float)
    add("--swa-full-tokens-ratio", type=float)
    add("--page-size", type=int, default=1)
    add("--speculative-draft-model-path", metavar="DIR")
    add("--speculative-num-draft-tokens", type=int)
    add("--enable-multimodal", action="store_true", help="count the towers too")
    add("--gemma4-swa-policy", choices=get_args(SwaPolicy), default="auto")
    add("--gemma4-attention", choices=get_args(Attention), default="auto",
        help="sglang: count an FP8 KV cache only where SGLang's attention reads it")  # fmt: skip
    add("--for-requests", type=int, metavar="N", default=1,
        help="find the longest context that N requests have at once (default: 1)")  # fmt: skip
    add("--gemma4-fit", choices=("auto", "off"), default="auto",
        help="choose chunk, requests, context and reserve; off: as SGLang chooses")  # fmt: skip
    add("--gemma4-allow", default="", metavar="kv8,head8,ple-host",
        help="lossy or slower choices that the plan may make; kv8: KV in fp8_e4m3; head8: tied "
        "embedding and head in INT8; ple-host: per-layer embeddings in host memory")  # fmt: skip
    add("--gemma4-ple", choices=get_args(Ple), default="gpu",
        help="memory that holds the per-layer embeddings of E2B and E4B")  # fmt: skip
    add("--gemma4-head", choices=get_args(Head), default="checkpoint",
        help="how the tied embedding and head is held; int8 is lossy")  # fmt: skip
    add("--gemma4-low-memory", action="store_true",
        help="put context before throughput on GPUs of 60 GiB and more too")  # fmt: skip
    add("--compare", action="store_true",
        help="plan the model for every known GPU, in the formats that run there")  # fmt: skip
    add("--stock", action="store_true", help="plan for SGLang 0.5.23 without this extension")
    add("--json", action="store_true", help="print JSON")
    add("--plot", type=Path, metavar="FILE",
        help="FILE.png: the plan beside stock SGLang's; with --compare FILE.svg")  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print a plan. 0: it fits; 1: it does not; 2: the question has no answer, in one sentence."""
    args = build_parser().parse_args(argv)
    try:
        if args.compare:
            return _compare(args)
        question = question_of(args)
        plan = search.fit(question) if args.gemma4_fit == "auto" else planner.make(question)
        gains = options.find(question, plan) if plan.fits else []
        if args.plot:
            _plot(question, plan, args.plot)
    except (PlanError, CheckpointError) as error:
        print(f"{PREFIX}{error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(report.to_json(question, plan, gains), indent=2))
    elif sys.stdout.isatty():
        from sglang_gemma4_ext.plan import terminal

        terminal.show(question, plan, gains)
    else:
        print(report.to_text(question, plan, gains))
    return 0 if plan.fits else 1


def _compare(args: argparse.Namespace) -> int:
    """Print one model's plans for all cards, and draw them if asked. Raises PlanError."""
    from sglang_gemma4_ext.plan import compare, figure

    if args.gpu or args.memory or args.json:
        raise PlanError("--compare prints every known GPU: leave out --gpu, --memory and --json")
    rows = compare.rows(args.model_path)
    print(compare.table(rows))
    if args.plot:
        if args.plot.suffix.lower() != ".svg":
            raise PlanError(f"--compare --plot writes a .svg file, not {args.plot.name}")
        _write(args.plot, figure.draw(args.model_path, rows))
    return 0


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise PlanError(f"--plot {file} cannot be written: {error.strerror}") from None


def question_of(args: argparse.Namespace) -> Question:
    """Turn the command line into a question. Raises PlanError or CheckpointError."""
    _check_flags(args)
    card = find_card(args.gpu) if args.gpu is not None else None
    subject = served.read(
        args.model_path,
        fmt=args.weights,
        tp=args.tp,
        multimodal=args.enable_multimodal,
        draft=args.speculative_draft_model_path,
        draft_tokens=args.speculative_num_draft_tokens,
        ple=args.gemma4_ple,
        head=args.gemma4_head,
    )
    return Question(
        geometry=subject.geometry,
        weights=subject.weights,
        draft=subject.draft,
        fp8_kv=subject.fp8_kv,
        own_attention=args.gemma4_attention != "sglang",
        memory=card.memory if card else parse_size(args.memory),
        capability=card.capability if card else None,
        card=card.title if card else "",
        tp=args.tp,
        context=args.context_length,
        requests=args.max_running_requests,
        chunk=args.chunked_prefill_size,
        mem_fraction=args.mem_fraction_static,
        swa_ratio=args.swa_full_tokens_ratio,
        kv_dtype=args.kv_cache_dtype,
        allowed=parse_allowed(args.gemma4_allow),
        ple=args.gemma4_ple,
        head=args.gemma4_head,
        at_once=args.for_requests,
        low_memory=args.gemma4_low_memory,
        page=args.page_size,
        policy=args.gemma4_swa_policy,
        ours=not args.stock,
    )


def _check_flags(args: argparse.Namespace) -> None:
    """Check flags that contradict each other. Raises PlanError."""
    if args.gpu is None and args.memory is None:
        raise PlanError("say which GPU: --gpu NAME, or --memory AMOUNT for one that has no name")
    if args.gpu is not None and args.memory is not None:
        raise PlanError("--gpu and --memory both name a GPU: leave one of them out")
    chosen = (args.gemma4_swa_policy, args.gemma4_attention, args.gemma4_ple, args.gemma4_head)
    defaults = ("auto", "auto", "gpu", "checkpoint")
    ours = args.gemma4_low_memory or args.gemma4_allow or chosen != defaults
    if args.stock and ours:
        raise PlanError("--stock plans without the extension: leave out --gemma4-* flags")
    if args.gemma4_low_memory and args.mem_fraction_static is not None:
        raise PlanError("--gemma4-low-memory chooses --mem-fraction-static: give one of the two")
    if args.speculative_num_draft_tokens and not args.speculative_draft_model_path:
        raise PlanError("--speculative-num-draft-tokens needs --speculative-draft-model-path")


def _plot(question: Question, plan: Plan, file: Path) -> None:
    from sglang_gemma4_ext.plan.plot import draw

    if file.suffix.lower() != ".png":
        raise PlanError(f"--plot writes a .png file, not {file.name}")
    plans = [(report.title(plan), plan)]
    if plan.question.ours:
        nothing: frozenset[str] = frozenset()
        stock = replace(question, ours=False, policy="auto", kv_dtype="auto", allowed=nothing)
        answer = planner.make(stock)
        plans.append((report.title(answer), answer))
    draw(plans, file)


if __name__ == "__main__":
    raise SystemExit(pipes.run(main))
