# SPDX-License-Identifier: Apache-2.0
"""`--gemma4-low-memory`: the plan's tight choices as SGLang's flags, for 24 and 32 GB cards.

The plan is the one that `python -m sglang_gemma4_ext.plan --gemma4-low-memory` prints. A flag that
the user gave stands, and the plan is made around it.
"""

from __future__ import annotations

from pathlib import Path

from sglang_gemma4_ext.launcher.command_line import DRAFT_MODEL, MODEL, TENSOR_PARALLEL, CommandLine
from sglang_gemma4_ext.plan import search, served
from sglang_gemma4_ext.plan.geometry import PlanError
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.settings import SwaPolicy

CHUNK, REQUESTS = "--chunked-prefill-size", "--max-running-requests"
FRACTION, CONTEXT = "--mem-fraction-static", "--context-length"
RATIO, PAGE = "--swa-full-tokens-ratio", "--page-size"


def apply(
    line: CommandLine,
    memory: int,
    policy: SwaPolicy,
    capability: tuple[int, int] | None = None,
) -> str:
    """Add the plan's flags to the command line; what was chosen, in one line.

    memory: bytes of the GPU. Raises PlanError where even this does not fit, with what would.
    """
    if line.value(FRACTION) is not None:
        raise PlanError(f"--gemma4-low-memory chooses {FRACTION}: give one of the two")
    plan = search.fit(_question(line, memory, policy, capability))
    if not plan.fits:
        raise PlanError(f"{plan.reason}; the nearest that fits: {plan.nearest}")
    chosen = {
        FRACTION: f"{plan.fraction:g}",
        CONTEXT: str(min(plan.longest_request, plan.load.context)),
        CHUNK: str(plan.load.chunk),
        REQUESTS: str(plan.load.requests),
    }
    added = [f"{flag} {value}" for flag, value in chosen.items() if line.value(flag) is None]
    for flag, value in chosen.items():
        line.default(flag, value)
    return f"low memory: {plan.reason}; {' '.join(added)}"


def _question(
    line: CommandLine, memory: int, policy: SwaPolicy, capability: tuple[int, int] | None
) -> Question:
    """The command line as a question to the planner. Raises PlanError."""
    path = line.value(*MODEL)
    if path is None or not Path(path).is_dir():
        raise PlanError("--gemma4-low-memory sums the weights of a local --model-path")
    tp = _integer(line, *TENSOR_PARALLEL) or 1
    subject = served.read(
        path,
        tp=tp,
        multimodal="--enable-multimodal" in line.argv,
        draft=line.value(*DRAFT_MODEL),
        draft_tokens=_integer(line, "--speculative-num-draft-tokens"),
    )
    return Question(
        geometry=subject.geometry,
        weights=subject.weights,
        draft=subject.draft,
        memory=memory,
        capability=capability,
        tp=tp,
        context=_integer(line, CONTEXT),
        requests=_integer(line, REQUESTS),
        chunk=_integer(line, CHUNK),
        swa_ratio=_decimal(line, RATIO),
        kv_dtype=line.value("--kv-cache-dtype") or "auto",
        page=_integer(line, PAGE) or 1,
        policy=policy,
        low_memory=True,
    )


def _integer(line: CommandLine, *spellings: str) -> int | None:
    value = line.value(*spellings)
    try:
        return None if value is None else int(value)
    except ValueError:
        raise PlanError(f"{spellings[0]} must be a whole number, not {value!r}") from None


def _decimal(line: CommandLine, flag: str) -> float | None:
    value = line.value(flag)
    try:
        return None if value is None else float(value)
    except ValueError:
        raise PlanError(f"{flag} must be a number, not {value!r}") from None
