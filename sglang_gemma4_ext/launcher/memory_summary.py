# SPDX-License-Identifier: Apache-2.0
"""Write the launcher's line on memory: what the planner counts for this server."""

from __future__ import annotations

from typing import Any

from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.hub import local_folder
from sglang_gemma4_ext.machine import detect_gpu, gpu_memory_bytes
from sglang_gemma4_ext.plan import planner, served
from sglang_gemma4_ext.plan.answer import Plan
from sglang_gemma4_ext.plan.geometry import PlanError
from sglang_gemma4_ext.plan.question import KV_DTYPE_BYTES, Question
from sglang_gemma4_ext.plan.served import Served
from sglang_gemma4_ext.plan.sizes import GIB
from sglang_gemma4_ext.settings import Settings


def describe_memory(cfg: Any, cpu: bool) -> str:
    """Return bytes of weights and draft, and of the rest on a GPU; if unknown, the reason.

    cfg: SGLang's resolved arguments. The server starts, whatever the plan says.
    """
    folder = local_folder(cfg.model_path, cfg.revision)
    if folder is None:
        return "not planned: the weights of a local --model-path can be summed"
    try:
        subject = served.read(
            str(folder),
            tp=cfg.tp_size,
            multimodal=bool(cfg.enable_multimodal),
            draft=cfg.speculative_draft_model_path,
        )
        left = "" if cpu else _left(plan_of(subject, cfg))
    except (PlanError, CheckpointError) as error:
        return f"not planned: {error}"
    counted = [f"weights {size(subject.weights.total)}"]
    if subject.draft:
        counted.append(f"draft {size(subject.draft.size)}")
    return ", ".join(counted) + left


def plan_of(subject: Served, cfg: Any) -> Plan:
    """Plan a server with resolved arguments on this machine's GPU. Raises PlanError."""
    dtype = cfg.kv_cache_dtype
    return planner.make(
        Question(
            geometry=subject.geometry,
            weights=subject.weights,
            draft=subject.draft,
            fp8_kv=subject.fp8_kv,
            memory=gpu_memory_bytes(),
            capability=detect_gpu().capability,
            tp=cfg.tp_size,
            context=cfg.context_length,
            requests=cfg.max_running_requests,
            chunk=cfg.chunked_prefill_size if (cfg.chunked_prefill_size or 0) > 0 else None,
            mem_fraction=cfg.mem_fraction_static,
            swa_ratio=cfg.swa_full_tokens_ratio,
            kv_dtype=dtype if dtype in KV_DTYPE_BYTES else "auto",
            page=cfg.page_size or 1,
            policy=Settings.from_env().swa_policy,
        )
    )


def _left(plan: Plan) -> str:
    memory = plan.question.memory / GIB
    return f", reserve {size(plan.reserve)}, KV {size(plan.parts['kv'])} of {memory:.1f} GiB"


def size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB // 10 else f"{count:,} bytes"
