# SPDX-License-Identifier: Apache-2.0
"""`--gemma4-low-memory`: the plan's tight choices as SGLang's flags, for 24 and 32 GB cards.

A smaller prefill chunk and few requests need less beside weights and KV: the reserve is what the
model works with, with no allowance on top. A flag that the user gave stands, and the plan is made
around it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sglang_gemma4_ext.launcher.command_line import DRAFT_MODEL, MODEL, TENSOR_PARALLEL, CommandLine
from sglang_gemma4_ext.plan import __main__ as cli
from sglang_gemma4_ext.plan import advice, planner
from sglang_gemma4_ext.plan.geometry import PlanError

CHUNK, REQUESTS = "--chunked-prefill-size", "--max-running-requests"
FRACTION, CONTEXT = "--mem-fraction-static", "--context-length"
RATIO = "--swa-full-tokens-ratio"


def apply(line: CommandLine, memory: int, policy: str) -> str:
    """Add the plan's flags to the command line; what was chosen, in one line.

    memory: bytes of the GPU. Raises PlanError where even this does not fit, with what would.
    """
    if line.value(FRACTION) is not None:
        raise PlanError(f"--gemma4-low-memory chooses {FRACTION}: give one of the two")
    plan = planner.make(_wish(line, memory, policy))
    if not plan.fits:
        raise PlanError(f"{plan.reason}; the nearest that fits: {plan.nearest}")
    fraction = advice.fraction(plan)
    context = str(min(plan.longest_request, plan.load.context))
    chosen = {
        FRACTION: f"{fraction:g}",
        CONTEXT: context,
        CHUNK: str(plan.load.chunk),
        REQUESTS: str(plan.load.requests),
    }
    added = [f"{flag} {value}" for flag, value in chosen.items() if line.value(flag) is None]
    for flag, value in chosen.items():
        line.default(flag, value)
    return f"low memory: {plan.reason}; {' '.join(added)}"


def _wish(line: CommandLine, memory: int, policy: str) -> planner.Wish:
    """The command line as a question to the planner. Raises PlanError."""
    path = line.value(*MODEL)
    argv = ["--model-path", str(path), "--memory", f"{memory // (1 << 20)}MiB"]
    for flag, spellings in (
        (CONTEXT, (CONTEXT,)),
        (CHUNK, (CHUNK,)),
        (REQUESTS, (REQUESTS,)),
        (RATIO, (RATIO,)),
        ("--tp", TENSOR_PARALLEL),
        ("--kv-cache-dtype", ("--kv-cache-dtype",)),
        ("--speculative-draft-model-path", DRAFT_MODEL),
        ("--speculative-num-draft-tokens", ("--speculative-num-draft-tokens",)),
    ):
        if (value := line.value(*spellings)) is not None:
            argv += [flag, value]
    if "--enable-multimodal" in line.argv:
        argv.append("--enable-multimodal")
    if path is None or not Path(path).is_dir():
        raise PlanError("--gemma4-low-memory sums the weights of a local --model-path")
    args = cli.build_parser().parse_args([*argv, "--gemma4-swa-policy", policy])
    return replace(cli.wish_of(args), low_memory=True)
