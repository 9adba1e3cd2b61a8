# SPDX-License-Identifier: Apache-2.0
"""Advise which flags run a plan that fits, and what to change in a question that does not."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace

from sglang_gemma4_ext.plan import choices
from sglang_gemma4_ext.plan.answer import Plan
from sglang_gemma4_ext.plan.question import Question
from sglang_gemma4_ext.plan.weights import REPLICATED, estimate, swizzled_scales


def nearest(question: Question, plan_of: Callable[[Question], Plan]) -> str:
    """Name the first smaller question that fits, in words."""
    for words, smaller in _smaller(question):
        plan = plan_of(smaller)
        if plan.fits:
            return f"{words} (up to {plan.longest_request} tokens a request)"
    return "a GPU with more memory"


def _smaller(question: Question) -> list[tuple[str, Question]]:
    """List questions that ask for less, or for another checkpoint or more GPUs, in words."""
    steps = []
    if not question.ours:
        steps.append(("this extension, without --stock", replace(question, ours=True)))
    if question.ours and (host := choices.ple_host(question)) != question:
        steps.append(("per-layer embeddings in host memory, --gemma4-ple host", host))
    is_wide = question.kv_dtype == "auto" and question.kv_dtype_bytes > 1
    if question.ours and question.runs_e4m3 and is_wide and "kv8" not in question.allowed:
        kv8 = replace(question, kv_dtype="fp8_e4m3")
        steps.append(("KV in 8 bits, --gemma4-allow kv8", kv8))
    if question.at_once > 1:
        steps.append(("--for-requests 1", replace(question, at_once=1)))
    if question.context is not None:
        steps.append(("a shorter --context-length", replace(question, context=None)))
        alone = replace(question, context=None, at_once=1)
        steps.append(("--for-requests 1 and a shorter --context-length", alone))
    if question.mem_fraction is not None:
        steps.append(("no --mem-fraction-static", replace(question, mem_fraction=None)))
    packed = estimate(question.geometry, "nvfp4", question.tp)
    if packed.total < question.weights.total:
        steps.append(("the model's NVFP4 checkpoint", replace(question, weights=packed)))
    more = (tp for tp in (2, 4, 8) if tp > question.tp)
    return [*steps, *((f"--tp {tp}", _parallel(question, tp)) for tp in more)]


def _parallel(question: Question, tp: int) -> Question:
    """Ask the same question for more GPUs."""
    parts = {
        part: size if part in REPLICATED else size * question.tp // tp
        for part, size in question.weights.parts.items()
    }
    if not question.geometry.tied:  # the embeddings are whole, and the head is sharded
        table = int(question.weights.parts["embeddings"] / (1 + 1 / question.tp))
        parts["embeddings"] = table + table // tp
    swizzled = swizzled_scales(question.geometry, tp) if question.weights.swizzled else 0
    held = replace(question.weights, parts=parts, swizzled=swizzled)
    return replace(question, tp=tp, weights=held)


def flags(plan: Plan) -> list[str]:
    """List the launcher's flags for this plan, to paste after --model-path."""
    question, load = plan.question, plan.load
    context = min(plan.longest_request, question.context or question.geometry.max_context)
    found = [f"--context-length {context}"]
    found += [
        f"--mem-fraction-static {plan.fraction:g}",
        f"--chunked-prefill-size {load.chunk}",
    ]
    if load.requests is not None:
        found.append(f"--max-running-requests {load.requests}")
    if question.ours and question.policy != "auto" and question.swa_ratio is None:
        found.append(f"--gemma4-swa-policy {question.policy}")
    if question.swa_ratio is not None:
        found.append(f"--swa-full-tokens-ratio {question.swa_ratio:g}")
    if question.ple != "gpu":
        found.append(f"--gemma4-ple {question.ple}")
    if question.head != "checkpoint":
        found.append(f"--gemma4-head {question.head}")
    if question.tp > 1:
        found.append(f"--tp {question.tp}")
    if question.kv_dtype != "auto" or question.served_kv_dtype == "bfloat16":
        found.append(f"--kv-cache-dtype {question.served_kv_dtype}")
    if question.page != 1:
        found.append(f"--page-size {question.page}")
    if question.draft:
        found += [
            f"--speculative-draft-model-path {shlex.quote(question.draft.path)}",
            f"--speculative-num-draft-tokens {question.draft.tokens}",
        ]
    return found
