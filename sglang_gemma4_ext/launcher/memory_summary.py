# SPDX-License-Identifier: Apache-2.0
"""Write the launcher's line on memory: what the planner counts for this server."""

from __future__ import annotations

from typing import Any

from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.hub import local_folder
from sglang_gemma4_ext.launcher import kv_dtype, pool_check
from sglang_gemma4_ext.machine import detect_gpu, gpu_memory, gpu_memory_now
from sglang_gemma4_ext.plan import planner, served
from sglang_gemma4_ext.plan.answer import Plan
from sglang_gemma4_ext.plan.geometry import PlanError
from sglang_gemma4_ext.plan.question import KV_DTYPE_BYTES, Question
from sglang_gemma4_ext.plan.served import Served
from sglang_gemma4_ext.plan.sizes import GIB
from sglang_gemma4_ext.settings import Settings


def describe_memory(cfg: Any, cpu: bool, made_tokens: int | None = None) -> list[str]:
    """Return bytes of weights and draft, and of the rest on a GPU; if unknown, the reason.

    cfg: SGLang's resolved arguments. The server starts, whatever the plan says.
    made_tokens: SGLang's max_total_num_tokens once the server is ready
    """
    folder = local_folder(cfg.model_path, cfg.revision)
    if folder is None:
        return ["not planned: the weights of a local --model-path can be summed"]
    try:
        subject = served.read(
            str(folder),
            tp=cfg.tp_size,
            multimodal=bool(cfg.enable_multimodal),
            draft=cfg.speculative_draft_model_path,
            draft_tokens=cfg.speculative_num_draft_tokens,
            ple=Settings.from_env().ple,
            head=Settings.from_env().head,
        )
        plan = None if cpu else plan_of(subject, cfg)
    except (PlanError, CheckpointError) as error:
        return [f"not planned: {error}"]
    counted = [f"weights {size(subject.weights.total)}"]
    if subject.draft:
        counted.append(f"draft {size(subject.draft.size)}")
    said = ", ".join(counted)
    if plan is None:
        return [said, *([f"KV pools of {made_tokens:,} tokens"] if made_tokens else [])]
    lines = [said + _left(plan)]
    # --max-total-tokens sizes the pools whatever the memory is.
    if made_tokens and cfg.max_total_tokens is None:
        lines += pool_check.describe(plan, made_tokens, gpu_memory_now().free)
    return lines


def plan_of(subject: Served, cfg: Any) -> Plan:
    """Plan a server with resolved arguments on this machine's GPU. Raises PlanError."""
    dtype, memory, settings = cfg.kv_cache_dtype, gpu_memory(), Settings.from_env()
    foreign = kv_dtype.sglangs_by(settings.attention, cfg.enable_deterministic_inference)
    return planner.make(
        Question(
            geometry=subject.geometry,
            weights=subject.weights,
            draft=subject.draft,
            fp8_kv=subject.fp8_kv,
            own_attention=not foreign,
            memory=memory.free if settings.launched else memory.total,
            capability=detect_gpu().capability,
            tp=cfg.tp_size,
            context=cfg.context_length,
            requests=cfg.max_running_requests,
            chunk=cfg.chunked_prefill_size if (cfg.chunked_prefill_size or 0) > 0 else None,
            mem_fraction=cfg.mem_fraction_static,
            swa_ratio=cfg.swa_full_tokens_ratio,
            kv_dtype=dtype if dtype in KV_DTYPE_BYTES else "auto",
            page=cfg.page_size or 1,
            policy=settings.swa_policy,
        )
    )


def _left(plan: Plan) -> str:
    memory = plan.question.memory / GIB
    return f", reserve {size(plan.reserve)}, KV {size(plan.parts['kv'])} of {memory:.1f} GiB"


def size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB // 10 else f"{count:,} bytes"
