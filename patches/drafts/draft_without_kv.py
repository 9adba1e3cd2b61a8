# SPDX-License-Identifier: Apache-2.0
"""Size the KV pools without the layers of an MTP assistant, which has no KV of its own.

SGLang counts FROZEN_KV_MTP among the EAGLE algorithms. It reserves memory for the draft's layers in
each token of the target's pools, as large as full-attention layers of the target. The draft's
worker then allocates 64 tokens for them and reads the target's pools. At the shapes of 26B-A4B and
a ratio of 0.15, an assistant of four layers would cost a quarter of the KV tokens.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch, Source

COMPONENTS = "sglang.srt.model_executor.model_runner_components"
RESOLVE = f"{COMPONENTS}.spec_aux_hidden_state._resolve_eagle_aux_hidden_state"
WORKER = "sglang.srt.speculative.frozen_kv_mtp_worker_v2.FrozenKVMTPDraftWorker"
POOLS = "sglang.srt.model_executor.pool_configurator"


def _none_of_its_own(result: None, *, config: Any, spec_algorithm: Any, **others: Any) -> None:
    """AFTER _resolve_eagle_aux_hidden_state: count no layers of the draft."""
    if spec_algorithm.is_frozen_kv_mtp() and config.eagle_draft_num_layers:
        config.eagle_draft_num_layers = 0


def _retired() -> bool:
    from sglang.srt.model_executor import pool_configurator
    from sglang.srt.model_executor.model_runner_components import spec_aux_hidden_state

    resolve = inspect.unwrap(spec_aux_hidden_state._resolve_eagle_aux_hidden_state)
    sources = inspect.getsource(resolve), inspect.getsource(pool_configurator)
    return any("frozen_kv_mtp" in source.lower() for source in sources)


PATCH = Patch(
    name="draft_without_kv",
    theme="drafts",
    summary="KV pools reserve nothing for an MTP assistant, which reads the target's keys",
    why="FROZEN_KV_MTP counts as EAGLE, whose drafts have pools of the target's length; no flag "
    "says that this one has none",
    upstream="unreported",
    retire_when="SGLang sizes the pools of FROZEN_KV_MTP without the draft's layers",
    retired=_retired,
    required=False,
    hooks=(Hook(RESOLVE, "38b66d834462", "after", _none_of_its_own),),
    relies_on=(
        Source(f"{WORKER}.alloc_memory_pool", "1e81b1a63829"),
        Source(f"{POOLS}.HybridSWAPoolConfigurator", "bf693d912104"),
    ),
)
