# SPDX-License-Identifier: Apache-2.0
"""Decide how KV memory is split between full and sliding layers, for plan and server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sglang_gemma4_ext.plan.pools import SEED_MOE_RATIO, UPSTREAM_RATIO
from sglang_gemma4_ext.settings import SwaPolicy

# Flags of SGLang with which the shared pool is refused or untested.
UNTESTED_BESIDE = (
    "speculative_algorithm", "enable_hierarchical_cache", "enable_lmcache",
    "enable_unified_cache_external_linker", "enable_two_batch_overlap", "enable_hisparse",
    "enable_kv_cache_sharding", "enable_memory_saver", "disable_hybrid_swa_memory",
)  # fmt: skip
KV_DTYPES = ("auto", "bfloat16", "bf16", "fp8_e4m3", "fp8_e5m2")


@dataclass(frozen=True)
class Server:
    """Hold what decides whether the two pools of a server may share their bytes.

    is_target: the GPU is one that this extension serves, or the CPU reference serves
    beside: those of UNTESTED_BESIDE that are set
    spread: over pipeline, context or disaggregated ranks
    attention: attention backends in use
    """

    is_target: bool = True
    beside: Iterable[str] = ()
    spread: bool = False
    kv_dtype: str = "auto"
    attention: Iterable[str] = ("triton",)


@dataclass(frozen=True)
class Split:
    """Hold the decision: `shared` bytes, a `fixed` ratio, or a ratio `solved` from the budget.

    reason: why the bytes are not shared, if the policy would share them, or not solved
    """

    kind: Literal["shared", "fixed", "solved"]
    ratio: float | None = None
    reason: str = ""


def decide(policy: SwaPolicy, *, is_moe: bool, server: Server) -> Split:
    """Split by the policy, where the user gave neither a ratio nor the unified pool."""
    if policy == "auto" and not server.is_target:
        return Split("fixed", UPSTREAM_RATIO, "because no other is tested on this GPU")
    if policy == "upstream":
        return Split("fixed", UPSTREAM_RATIO)
    if policy == "seed":
        return Split("fixed", SEED_MOE_RATIO if is_moe else UPSTREAM_RATIO)
    reason = _not_shared(server)
    return Split("solved", reason=reason) if reason else Split("shared")


def _not_shared(server: Server) -> str:
    """Return why the pools cannot share their bytes, or an empty string."""
    if flag := next(iter(server.beside), None):
        return f"because --{flag.replace('_', '-')} is set"
    if server.spread:
        return "because the server is spread over pipeline, context or disaggregated ranks"
    if server.kv_dtype not in KV_DTYPES:
        return f"because --kv-cache-dtype is {server.kv_dtype}"
    if others := set(server.attention) - {"triton"}:
        return f"because attention runs on {', '.join(sorted(map(str, others)))}"
    return ""
