# SPDX-License-Identifier: Apache-2.0
"""`python -m sglang_gemma4_ext.plan`: will this model fit that GPU, and how to serve it there."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.plan import planner, report, served
from sglang_gemma4_ext.plan.answer import Plan
from sglang_gemma4_ext.plan.cards import CARDS, find_card
from sglang_gemma4_ext.plan.geometry import BUILT_IN, PlanError
from sglang_gemma4_ext.plan.question import KV_DTYPE_BYTES, Question
from sglang_gemma4_ext.plan.sizes import parse_size
from sglang_gemma4_ext.plan.weights import FORMATS
from sglang_gemma4_ext.settings import SwaPolicy


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sglang_gemma4_ext.plan", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model-path", "--model", required=True, metavar="DIR|CONFIG.JSON|NAME",
        help=f"a checkpoint, its config.json, or one of {', '.join(BUILT_IN)}")  # fmt: skip
    add("--gpu", help=f"one of {', '.join(CARDS)}, or its name as nvidia-smi prints it")
    add("--memory", help="of one GPU, such as 24GiB or 24, instead of --gpu")
    add("--weights", choices=FORMATS, help="what is quantized, where there are no weights to sum")
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
    add("--gemma4-low-memory", action="store_true")
    add("--stock", action="store_true", help="plan for SGLang 0.5.23 without this extension")
    add("--json", action="store_true", help="print JSON")
    add("--plot", type=Path, metavar="FILE.png", help="draw the plan beside stock SGLang's")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print a plan. 0: it fits; 1: it does not; 2: the question has no answer, in one sentence."""
    args = build_parser().parse_args(argv)
    try:
        plan = planner.make(question_of(args))
        if args.plot:
            _plot(plan, args.plot)
    except (PlanError, CheckpointError) as error:
        print(f"sglang-gemma4-ext: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.to_json(plan), indent=2) if args.json else report.to_text(plan))
    return 0 if plan.fits else 1


def question_of(args: argparse.Namespace) -> Question:
    """The command line as a question. Raises PlanError or CheckpointError."""
    _check_flags(args)
    card = find_card(args.gpu) if args.gpu is not None else None
    subject = served.read(
        args.model_path,
        fmt=args.weights,
        tp=args.tp,
        multimodal=args.enable_multimodal,
        draft=args.speculative_draft_model_path,
        draft_tokens=args.speculative_num_draft_tokens,
    )
    return Question(
        geometry=subject.geometry,
        weights=subject.weights,
        draft=subject.draft,
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
        page=args.page_size,
        policy=args.gemma4_swa_policy,
        low_memory=args.gemma4_low_memory,
        ours=not args.stock,
    )


def _check_flags(args: argparse.Namespace) -> None:
    """Raises PlanError on flags that contradict each other."""
    if args.gpu is None and args.memory is None:
        raise PlanError("say which GPU: --gpu NAME, or --memory AMOUNT for one that has no name")
    if args.gpu is not None and args.memory is not None:
        raise PlanError("--gpu and --memory both name a GPU: leave one of them out")
    if args.stock and (args.gemma4_low_memory or args.gemma4_swa_policy != "auto"):
        raise PlanError("--stock plans without the extension: leave out --gemma4-* flags")
    if args.gemma4_low_memory and args.mem_fraction_static is not None:
        raise PlanError("--gemma4-low-memory chooses --mem-fraction-static: give one of the two")
    if args.speculative_num_draft_tokens and not args.speculative_draft_model_path:
        raise PlanError("--speculative-num-draft-tokens needs --speculative-draft-model-path")


def _plot(plan: Plan, file: Path) -> None:
    from sglang_gemma4_ext.plan.plot import draw

    if file.suffix.lower() != ".png":
        raise PlanError(f"--plot writes a .png file, not {file.name}")
    plans = [(report.title(plan), plan)]
    if plan.question.ours:
        stock = replace(plan.question, ours=False, policy="auto", low_memory=False)
        answer = planner.make(stock)
        plans.append((report.title(answer), answer))
    draw(plans, file)


if __name__ == "__main__":
    raise SystemExit(main())
