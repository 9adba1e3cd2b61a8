# SPDX-License-Identifier: Apache-2.0
"""Compute where each byte of a GPU goes, and whether it fits."""

from __future__ import annotations

from dataclasses import replace

from sglang_gemma4_ext.plan import advice, padding, policy, pools, reserve
from sglang_gemma4_ext.plan.activations import Step, activation_bytes
from sglang_gemma4_ext.plan.answer import NEW_TOKENS, RESERVE, Plan
from sglang_gemma4_ext.plan.pools import KvBytes, Pools, Serving
from sglang_gemma4_ext.plan.question import Question, check
from sglang_gemma4_ext.plan.sizes import GIB

BEYOND = (
    "This GPU is a Blackwell: the extension leaves the reserve and the split of KV memory to "
    "SGLang; its memory patches are for compute capability 8.0 to 9.x"
)
NO_FP8_KV = (
    "The checkpoint declares an FP8 KV cache: it is counted in BF16, at two bytes a value, for "
    "SGLang's attention reads FP8 from compute capability 8.9 on; --gemma4-attention auto serves "
    "it in FP8"
)
STOCK_FP8_KV = (
    "stock SGLang 0.5.23 takes the FP8 KV cache that the checkpoint declares, and its attention "
    "does not compile for it before compute capability 8.9"
)
STOCK_EXPERTS = (
    "stock SGLang 0.5.23 does not answer with NVFP4 experts before Blackwell: its Marlin kernels "
    "refuse their gelu"
)


def make(question: Question) -> Plan:
    """Answer a question as it is. Raises PlanError on contradictions."""
    check(question)
    plan = answer(question)
    return plan if plan.fits else replace(plan, nearest=advice.nearest(question, answer))


def answer(question: Question) -> Plan:
    """Answer with the question's choices, and with SGLang's where it makes none."""
    load = _load(question)
    fraction = _fraction(question, load)
    parts = _parts(question, load, reserve.kept_by(question.memory, fraction))
    kv = pools.kv_bytes(
        question.geometry,
        question.kv_dtype_bytes,
        question.tp,
        shared_layers_too=not question.ours,
        draft_layers=0 if question.ours else question.draft.layers,
    )
    serving = Serving(question.page, load.chunk, question.draft.tokens)
    split, ratio = _split(question, max(parts["kv"], 0), kv, serving)
    longest = pools.longest(split, kv, question.geometry.window, load.context, NEW_TOKENS, serving)
    counts = {
        (prompt, new): _at_once(question, split, kv, load, serving, prompt, new)
        for prompt, new in _lengths(question)
    }
    fits, reason = _verdict(question, parts, split, kv, serving, longest)
    plan = Plan(question, parts, fraction, kv, split, ratio, load, longest, counts, fits, reason,
                notes=_notes(question))  # fmt: skip
    return replace(plan, flags=advice.flags(plan)) if fits else plan


def _load(question: Question) -> reserve.Load:
    requests = question.requests
    load = reserve.default_load(question.memory, question.geometry, question.tp, requests)
    return replace(
        load,
        chunk=question.chunk or load.chunk,
        requests=requests,
        graph_batch=min(load.graph_batch, requests or load.graph_batch),
        context=_context(question),
        draft_tokens=question.draft.tokens,
    )


def _fraction(question: Question, load: reserve.Load) -> float:
    """Return mem_fraction_static: the user's, or the patch's or SGLang's choice."""
    if question.mem_fraction is not None:
        return question.mem_fraction
    if not question.ours or not question.is_target:
        return reserve.sglang_fraction(question.memory, load)
    return reserve.best_fraction(question.memory, question.geometry, load, tight=question.tight)


def _parts(question: Question, load: reserve.Load, kept: int) -> dict[str, int]:
    """Return bytes by purpose; `kv` is what is left."""
    step = Step(load.chunk, load.graph_batch, load.draft_tokens, load.tp)
    computing = min(kept, activation_bytes(question.geometry, step))
    graphs = min(kept - computing, reserve.graph_bytes(load))
    tables = min(kept - computing - graphs, reserve.late_allocations(question.geometry, load))
    parts = {"CUDA context": reserve.CUDA_CONTEXT}
    parts |= {f"weights: {part}": size for part, size in _held(question).items()}
    parts |= {
        RESERVE + "activations": computing,
        RESERVE + "CUDA graphs": graphs,
        RESERVE + "request table, attention buffers": tables,
        RESERVE + "unmodelled": kept - computing - graphs - tables,
    }
    return {**parts, "kv": question.memory - sum(parts.values())}


def _held(question: Question) -> dict[str, int]:
    """Return the bytes of all weights on the GPU by part."""
    others = {
        "draft": question.draft.size,
        "swizzled scales": question.weights.swizzled if _is_swizzled(question) else 0,
        "padding of experts": _padding(question),
    }
    return {**question.weights.parts, **{part: size for part, size in others.items() if size}}


def _padding(question: Question) -> int:
    """Return the bytes that Humming adds to 4-bit experts, which it multiplies by default."""
    weights, capability = question.weights, question.capability or (8, 0)
    if not question.ours or not (weights.nvfp4_experts or weights.int4_experts):
        return 0
    if not question.is_target:
        return 0
    growth = padding.growth_of_experts(question.geometry, capability, question.tp)
    return int(weights.parts["experts"] * growth)


def _is_swizzled(question: Question) -> bool:
    """Tell whether ModelOpt's block scales are kept twice: by stock SGLang and on a Blackwell."""
    return not question.ours or not question.is_target


def _split(
    question: Question, budget: int, kv: KvBytes, serving: Serving
) -> tuple[Pools, float | None]:
    """Return the pools of the question's policy and their ratio; None if bytes are shared."""
    ratio = question.swa_ratio
    if ratio is None:
        chosen = policy.decide(
            question.policy if question.ours else "upstream",
            is_moe=question.geometry.is_moe,
            server=question.server,
        )
        if chosen.kind == "shared":
            return pools.share(budget, kv, question.page), None
        ratio = chosen.ratio
    if ratio is None:
        ratio = pools.solve_ratio(
            budget, kv, question.geometry.window, _context(question), serving,
            max_requests=question.requests,
        )  # fmt: skip
    return pools.split(budget, kv, ratio, question.page), ratio


def _context(question: Question) -> int:
    return question.context or question.geometry.max_context


def _at_once(
    question: Question, split: Pools, kv: KvBytes, load: reserve.Load, serving: Serving,
    prompt: int, new: int,
) -> int:  # fmt: skip
    """Return how many such requests run at once: what the pools hold, up to the request cap."""
    held = pools.concurrent(split, kv, question.geometry.window, prompt, new, serving)
    return min(held, load.requests or reserve.MANY_RUNNING)


def _lengths(question: Question) -> list[tuple[int, int]]:
    most = _context(question)
    lengths = [load for load in pools.WORKLOADS if sum(load) <= most]
    whole = (most - NEW_TOKENS, NEW_TOKENS)
    return [*lengths, whole] if whole not in lengths and whole[0] > 0 else lengths


def _notes(question: Question) -> tuple[str, ...]:
    notes = []
    if question.ours and not question.is_target:
        notes.append(BEYOND)
    if question.kv_dtype == "auto" and question.fp8_kv and not question.runs_e4m3:
        notes.append(NO_FP8_KV)
    return tuple(notes)


def _verdict(
    question: Question,
    parts: dict[str, int],
    split: Pools,
    kv: KvBytes,
    serving: Serving,
    longest: int,
) -> tuple[bool, str]:
    if not question.ours and question.is_target and question.weights.nvfp4_experts:
        return False, STOCK_EXPERTS
    declared = question.kv_dtype == "auto" and question.fp8_kv
    if not question.ours and declared and question.capability and not question.runs_e4m3:
        return False, STOCK_FP8_KV
    held = sum(_held(question).values())
    if parts["kv"] <= 0:
        over = -parts["kv"] / GIB
        if held + reserve.CUDA_CONTEXT >= question.memory:
            memory = f"{question.memory / GIB:.1f} GiB"
            return False, f"the weights alone ({held / GIB:.1f} GiB) do not fit {memory}"
        return False, f"weights and reserve together are {over:.1f} GiB too large"
    wanted = (question.context or 0) - NEW_TOKENS
    if longest == 0 or longest < wanted:
        most = f"{longest + NEW_TOKENS} tokens" if longest else "no request"
        return False, f"the KV pools hold {most}, too few for a context of {question.context or 1}"
    if question.context and question.at_once > 1:
        count = pools.concurrent(
            split, kv, question.geometry.window, max(1, wanted), NEW_TOKENS, serving
        )
        if count < question.at_once:
            many = f"{count} of {question.at_once} requests"
            return False, f"{many} of {question.context} tokens fit at once"
    return True, f"{parts['kv'] / GIB:.1f} GiB are left for KV"
