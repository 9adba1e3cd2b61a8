# SPDX-License-Identifier: Apache-2.0
"""The launcher's line on memory: what the planner counts for the server that is about to start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.machine import gpu_memory_bytes
from sglang_gemma4_ext.plan import __main__ as cli
from sglang_gemma4_ext.plan import planner
from sglang_gemma4_ext.plan.geometry import PlanError
from sglang_gemma4_ext.plan.sizes import GIB, MIB


def describe_memory(cfg: Any, cpu: bool) -> str:
    """Bytes of weights and draft, and on a GPU what they leave; why not, where that is unknown.

    cfg: SGLang's settled arguments. A server starts whatever the plan says of it.
    """
    if not Path(cfg.model_path).is_dir():
        return "not planned: the weights of a local --model-path can be summed"
    memory = 0 if cpu else gpu_memory_bytes()
    argv = ["--model-path", cfg.model_path, "--memory", f"{max(memory // MIB, 1)}MiB",
            "--tp", str(cfg.tp_size)]  # fmt: skip
    if draft := cfg.speculative_draft_model_path:
        argv += ["--speculative-draft-model-path", draft]
    if cfg.enable_multimodal:
        argv.append("--enable-multimodal")
    if not cpu and cfg.mem_fraction_static is not None:
        argv += ["--mem-fraction-static", str(cfg.mem_fraction_static)]
    try:
        wish = cli.wish_of(cli.build_parser().parse_args(argv))
        left = "" if cpu else _left(planner.make(wish))
    except (PlanError, CheckpointError) as error:
        return f"not planned: {error}"
    counted = [f"weights {_size(wish.weights.total)}"]
    if wish.draft_bytes:
        counted.append(f"draft {_size(wish.draft_bytes)}")
    return ", ".join(counted) + left


def _left(plan: planner.Plan) -> str:
    reserve = sum(size for part, size in plan.parts.items() if part.startswith("reserve"))
    memory = plan.wish.memory / GIB
    return f", reserve {_size(reserve)}, KV {_size(plan.parts['kv'])} of {memory:.1f} GiB"


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB // 10 else f"{count:,} bytes"
