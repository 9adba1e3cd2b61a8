# SPDX-License-Identifier: Apache-2.0
"""Reserve memory beside weights and KV by the model, not by 1.5 MiB a token.

SGLang sets `mem_fraction_static` in one step of argument resolution. Where the user left it open,
this patch runs that step, then lowers the reserve to what plan/reserve.py computes. It never raises
it. Reserves that the planner does not model stay SGLang's: towers, DP attention, DeepEP,
post-capture sizing, decode-only nodes.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.plan import reserve
from sglang_gemma4_ext.plan.geometry import PlanError, from_config
from sglang_gemma4_ext.plan.sizes import GIB, MIB
from sglang_gemma4_ext.registry import Hook, Patch, Source

logger = logging.getLogger(__name__)

MEMORY = "sglang.srt.arg_groups.memory_hook"
# Draft tokens that are assumed if memory is sized before their number is known.
DRAFT_TOKENS = 8


def _settle(original: Callable[[Any], None], server_args: Any) -> None:
    """AROUND handle_gpu_memory_settings: lower the reserve after SGLang has set it."""
    from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view

    is_users = resolving_view(server_args).mem_fraction_static is not None
    original(server_args)
    cfg = resolving_view(server_args)
    if is_users or _is_beyond_the_plan(server_args, cfg):
        return
    from sglang.srt.arg_groups.memory_hook import get_device_memory_capacity

    total_mib = get_device_memory_capacity(cfg.device)
    fraction = _fraction(cfg, int(total_mib * MIB)) if total_mib else 0.0
    if fraction > cfg.mem_fraction_static:
        logger.info(
            "Memory reserve %.2f GiB instead of %.2f: mem_fraction_static=%g",
            (1 - fraction) * total_mib * MIB / GIB,
            (1 - cfg.mem_fraction_static) * total_mib * MIB / GIB,
            fraction,
        )
        declare_resolution(server_args, "gemma4_memory_reserve", mem_fraction_static=fraction)


def _is_beyond_the_plan(server_args: Any, cfg: Any) -> bool:
    from sglang.srt.arg_groups.overrides import (
        model_config_of,
        post_capture_kv_sizing_planned,
        resolved_view,
    )
    from sglang.srt.runtime_context import attn_dp_enabled_of

    return (
        model_config_of(server_args).is_multimodal
        or cfg.disaggregation_mode != "null"
        or cfg.chunked_prefill_size <= 0
        or cfg.pp_size > 1
        or resolved_view(server_args).moe_a2a_backend == "deepep"
        or attn_dp_enabled_of(resolved_view(server_args))
        or post_capture_kv_sizing_planned(server_args)
    )


def _fraction(cfg: Any, memory: int) -> float:
    """Return mem_fraction_static under our reserve; 0 for a model unknown to the planner."""
    from sglang_gemma4_ext.checkpoint.model_family import read_model_info

    model = read_model_info(cfg.model_path, cfg.revision)
    if model is None or not model.is_gemma4:
        return 0.0
    try:
        geometry = from_config(model)
    except PlanError as error:
        logger.warning("SGLang's memory reserve stays: %s", error)
        return 0.0
    return reserve.best_fraction(memory, geometry, _load(cfg, geometry.max_context))


def _load(cfg: Any, most: int) -> reserve.Load:
    graphs = cfg.cuda_graph_config
    drafts = (cfg.speculative_num_draft_tokens or DRAFT_TOKENS) if cfg.speculative_algorithm else 1
    return reserve.Load(
        chunk=cfg.chunked_prefill_size,
        graph_batch=0 if graphs.decode.backend == "disabled" else graphs.decode.max_bs,
        context=min(cfg.context_length or most, most),
        requests=cfg.max_running_requests,
        draft_tokens=drafts,
        tp=cfg.tp_size,
        prefill_graphs=graphs.prefill.backend != "disabled",
    )


def _stands_down(ctx: Context) -> str | None:
    return None if ctx.gpu.is_target else "the reserve is for NVIDIA SM80 to SM90"


def _retired() -> bool:
    from sglang.srt.arg_groups import memory_hook

    source = inspect.getsource(inspect.unwrap(memory_hook.handle_gpu_memory_settings))
    return "activation_tokens * 1.5" not in source


PATCH = Patch(
    name="memory_reserve",
    theme="memory",
    summary="The memory kept beside weights and KV is computed from the model",
    why=(
        "SGLang reserves 512 MiB + 1.5 MiB for each token of a prefill chunk for every model, 7 "
        "GiB of a 24 GB card; only mem_fraction_static itself changes it"
    ),
    upstream="unreported",
    retire_when="handle_gpu_memory_settings no longer reserves 1.5 MiB a token",
    retired=_retired,
    hooks=(Hook(f"{MEMORY}.handle_gpu_memory_settings", "cc1fe2e7c35e", "around", _settle),),
    relies_on=(Source(f"{MEMORY}.reserve_for_graph_mb", "4cd5981a5492"),),
    stands_down=_stands_down,
)
