# SPDX-License-Identifier: Apache-2.0
"""Fit a server to its GPU: pass the plan's choices as SGLang's flags.

The plan is the one that `python -m sglang_gemma4_ext.plan` prints. It keeps every flag that the
user gave. A server that the plan does not cover is left to SGLang.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sglang_gemma4_ext.checkpoint.hub import local_folder
from sglang_gemma4_ext.checkpoint.model_family import (
    TARGET_ARCHITECTURES,
    ModelInfo,
    read_model_info,
)
from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.launcher.command_line import (
    ATTENTION_BACKENDS,
    DRAFT_MODEL,
    MODEL,
    TENSOR_PARALLEL,
    CommandLine,
)
from sglang_gemma4_ext.machine import Gpu, Memory
from sglang_gemma4_ext.plan import search, served
from sglang_gemma4_ext.plan.answer import Plan
from sglang_gemma4_ext.plan.geometry import PlanError
from sglang_gemma4_ext.plan.policy import UNTESTED_BESIDE
from sglang_gemma4_ext.plan.question import KV_DTYPE_BYTES, Question
from sglang_gemma4_ext.plan.sizes import GIB
from sglang_gemma4_ext.settings import Head, Ple, SwaPolicy

CHUNK, REQUESTS = "--chunked-prefill-size", "--max-running-requests"
FRACTION, CONTEXT = "--mem-fraction-static", "--context-length"
RATIO, PAGE, KV_DTYPE = "--swa-full-tokens-ratio", "--page-size", "--kv-cache-dtype"
OFF = "--gemma4-fit off"
# Each of these means that the user has chosen the memory.
MEMORY_FLAGS = (FRACTION, RATIO, "--max-total-tokens", "--enable-unified-memory")
# The plan does not count these.
UNCOUNTED = (
    "--enable-multimodal", "--disaggregation-mode", "--pp-size", "--pipeline-parallel-size",
    "--dp-size", "--data-parallel-size", "--enable-dp-attention", "--ep-size", "--nnodes",
    "--moe-a2a-backend", "--cpu-offload-gb", "--offload-group-size", "--enable-lora",
    "--lora-paths", "--enable-paged-experts", "--disable-radix-cache", "--enable-torch-compile",
    "--cuda-graph-config", "--cuda-graph-bs-decode", "--cuda-graph-max-bs-decode",
    "--cuda-graph-bs-prefill", "--cuda-graph-max-bs-prefill", "--speculative-eagle-topk",
    *(f"--{name.replace('_', '-')}" for name in UNTESTED_BESIDE if name != "speculative_algorithm"),
)  # fmt: skip
ALGORITHM, STEPS = "--speculative-algorithm", "--speculative-num-steps"
DRAFT_TOKENS = "--speculative-num-draft-tokens"


@dataclass(frozen=True)
class Fitted:
    """Hold what fitting chose: one line for the user, and how embedding tables are stored."""

    said: str
    ple: Ple
    head: Head


def apply(
    line: CommandLine,
    gpu: Gpu,
    memory: Memory,
    model: ModelInfo | None,
    policy: SwaPolicy,
    *,
    asked: bool = False,
    allowed: frozenset[str] = frozenset(),
    own_attention: bool = True,
    ple: Ple = "gpu",
    head: Head = "checkpoint",
) -> Fitted:
    """Add the plan's flags to the command line; return what was chosen, or why nothing was.

    model: the target, None if its config cannot be read
    allowed: choices of --gemma4-allow
    own_attention: our attention reads an FP8 KV cache
    ple: memory that holds the per-layer embeddings
    head: how the tied embedding and head is held
    asked: by --gemma4-low-memory, which puts context first and refuses what cannot be fitted
    Raises PlanError if the weights do not fit the GPU; the message says what would.
    """
    model = model or _cached(line)
    if reason := _unfitted(line, gpu, model):
        if asked:
            raise PlanError(f"--gemma4-low-memory cannot choose the memory: {reason}")
        said = f"memory as SGLang chooses it: {reason}" if reason != _NO_GEMMA else ""
        return Fitted(said, ple, head)
    path = model.path if model else ""
    asks = question_of(line, path, gpu, memory.free, policy, own_attention, ple, head)
    question = replace(asks, low_memory=asked, allowed=allowed)
    plan = search.fit(question)
    if not plan.fits:
        return Fitted(_too_large(plan, asked), ple, head)
    if plan.question == question:
        said = "memory as SGLang chooses it: no other choice serves every load as well"
        return Fitted(said, ple, head)
    chosen = {
        FRACTION: f"{plan.fraction:g}",
        CONTEXT: str(min(plan.longest_request, plan.load.context)),
        CHUNK: str(plan.load.chunk),
        REQUESTS: str(plan.load.requests),
    }
    if "kv8" in allowed and plan.question.kv_dtype != "auto":
        chosen[KV_DTYPE] = plan.question.kv_dtype
    stored = {"--gemma4-ple": (ple, plan.question.ple), "--gemma4-head": (head, plan.question.head)}
    added = [f"{flag} {now}" for flag, (given, now) in stored.items() if now != given]
    added += [f"{flag} {value}" for flag, value in chosen.items() if line.value(flag) is None]
    for flag, value in chosen.items():
        line.default(flag, value)
    taken = f", {memory.used / GIB:.1f} GiB of it in use by others" if memory.used else ""
    size = f"{memory.total / GIB:.1f} GiB{taken}"
    said = f"fitted to {size}: {' '.join(added)} ({plan.reason}; {OFF} leaves it to SGLang)"
    return Fitted(said, plan.question.ple, plan.question.head)


def _cached(line: CommandLine) -> ModelInfo | None:
    """Return the model of a hub name that is in the cache."""
    folder = local_folder(line.value(*MODEL) or "", line.value("--revision"))
    return read_model_info(str(folder)) if folder else None


_NO_GEMMA = "the model is not a Gemma 4"


def _unfitted(line: CommandLine, gpu: Gpu, model: ModelInfo | None) -> str:
    """Return why the plan does not choose this server's memory, or an empty string."""
    path = line.value(*MODEL) or ""
    if model is None and not Path(path).exists():
        return f"{path} is not on this machine yet (hf download {path}), so its size is not known"
    if model is None or model.architecture not in TARGET_ARCHITECTURES:
        return _NO_GEMMA
    if not gpu.is_target:
        return f"the extension's memory patches are not for {gpu}"
    if settled := next((flag for flag in MEMORY_FLAGS if line.has(flag)), None):
        return f"{settled} is given"
    if uncounted := next((flag for flag in UNCOUNTED if line.has(flag)), None):
        return f"the plan does not count {uncounted}"
    if line.has(ALGORITHM) and not line.has(*DRAFT_MODEL):
        return f"the plan does not count {ALGORITHM} without {DRAFT_MODEL[0]}"
    for flag in ATTENTION_BACKENDS:
        if (backend := line.value(flag)) not in (None, "triton"):
            return f"the plan does not count {flag} {backend}"
    if line.has("--quantization") and not describe(model).label:
        return "the plan does not count --quantization of a checkpoint that is not quantized"
    if (dtype := line.value(KV_DTYPE)) and dtype not in KV_DTYPE_BYTES:
        return f"the plan does not count {KV_DTYPE} {dtype}"
    if (chunk := _integer(line, CHUNK)) is not None and chunk < 1:
        return f"the plan does not count {CHUNK} {chunk}"
    return ""


def _too_large(plan: Plan, asked: bool) -> str:
    """Describe a server that no plan fits. Raises PlanError if it cannot start."""
    said = f"{plan.reason}; the nearest that fits: {plan.nearest}"
    if asked:
        raise PlanError(said)
    if plan.question.weights.total + plan.question.draft.size >= plan.question.memory:
        raise PlanError(f"{said}; {OFF} starts it anyway")
    return f"memory as SGLang chooses it, because nothing fits: {said}"


def question_of(
    line: CommandLine,
    path: str,
    gpu: Gpu,
    memory: int,
    policy: SwaPolicy,
    own_attention: bool,
    ple: Ple = "gpu",
    head: Head = "checkpoint",
) -> Question:
    """Turn the command line into a question for the planner. Raises PlanError."""
    tp, steps = _integer(line, *TENSOR_PARALLEL) or 1, _integer(line, STEPS)
    subject = served.read(
        path,
        tp=tp,
        draft=line.value(*DRAFT_MODEL),
        draft_tokens=steps + 1 if steps else _integer(line, DRAFT_TOKENS),
        ple=ple,
        head=head,
    )
    return Question(
        geometry=subject.geometry,
        weights=subject.weights,
        draft=subject.draft,
        fp8_kv=subject.fp8_kv,
        own_attention=own_attention,
        memory=memory,
        capability=gpu.capability,
        tp=tp,
        context=_integer(line, CONTEXT),
        requests=_integer(line, REQUESTS),
        chunk=_integer(line, CHUNK),
        kv_dtype=line.value(KV_DTYPE) or "auto",
        page=_integer(line, PAGE) or 1,
        ple=ple,
        head=head,
        policy=policy,
    )


def _integer(line: CommandLine, *spellings: str) -> int | None:
    value = line.value(*spellings)
    try:
        return None if value is None else int(value)
    except ValueError:
        raise PlanError(f"{spellings[0]} must be a whole number, not {value!r}") from None
