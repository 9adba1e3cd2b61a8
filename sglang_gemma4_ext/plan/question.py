# SPDX-License-Identifier: Apache-2.0
"""Define the question that a plan answers, and check it."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_gemma4_ext.plan.geometry import Geometry, PlanError
from sglang_gemma4_ext.plan.policy import Server
from sglang_gemma4_ext.plan.served import NO_DRAFT, Draft
from sglang_gemma4_ext.plan.weights import Weights
from sglang_gemma4_ext.settings import Head, Ple, SwaPolicy

KV_DTYPE_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}
# SGLang's Triton attention compiles for an E4M3 cache from this compute capability on.
E4M3_SINCE = (8, 9)
# Ours, --gemma4-attention, reads one from here on.
OWN_E4M3_SINCE = (8, 0)

# Lossy choices that --gemma4-allow permits, and those that no version offers yet.
ALLOWABLE = frozenset({"ple-host", "head8", "kv8"})
NOT_YET = {
    "experts-host": "SGLang's --enable-paged-experts takes BF16 experts alone",
}


def e4m3_since(own_attention: bool) -> tuple[int, int]:
    """Return the compute capability from which attention, ours or SGLang's, reads E4M3."""
    return OWN_E4M3_SINCE if own_attention else E4M3_SINCE


@dataclass(frozen=True)
class Question:
    """Describe what is to be served on which GPU; None leaves a choice to the plan.

    memory: bytes of one GPU as nvidia-smi reports them
    capability: its compute capability; None if only its memory is known
    card: its name, for people
    fp8_kv: the checkpoint declares an FP8 KV cache; kv_dtype "auto" takes it if it runs
    own_attention: our attention reads an FP8 KV cache; stock SGLang's does whatever this says
    at_once: requests of the whole context that must run at once
    tight: keep free what the model works with, without an allowance
    low_memory: context counts before throughput on large GPUs too
    policy: how KV memory is split; see policy.py
    ple: memory that holds the per-layer embeddings; `weights` are those of the GPU
    head: how the tied embedding and head is held; `weights` count it so
    allowed: lossy choices that the plan may make, of ALLOWABLE
    ours: with the extension's patches; False plans stock SGLang 0.5.23
    """

    geometry: Geometry
    weights: Weights
    memory: int
    tp: int = 1
    context: int | None = None
    requests: int | None = None
    chunk: int | None = None
    mem_fraction: float | None = None
    swa_ratio: float | None = None
    kv_dtype: str = "auto"
    fp8_kv: bool = False
    own_attention: bool = True
    draft: Draft = NO_DRAFT
    page: int = 1
    policy: SwaPolicy = "auto"
    at_once: int = 1
    ple: Ple = "gpu"
    head: Head = "checkpoint"
    allowed: frozenset[str] = frozenset()
    tight: bool = False
    low_memory: bool = False
    ours: bool = True
    capability: tuple[int, int] | None = None
    card: str = ""

    @property
    def is_target(self) -> bool:
        """Tell whether the memory patches apply to this GPU; a nameless one counts so."""
        return self.capability is None or (8, 0) <= self.capability < (10, 0)

    @property
    def is_free(self) -> bool:
        """Tell whether the plan may choose memory: neither the user nor the GPU prevents it."""
        settled = self.mem_fraction is not None or self.swa_ratio is not None or self.tight
        return self.ours and self.is_target and not settled

    @property
    def runs_e4m3(self) -> bool:
        """Tell whether this GPU reads an E4M3 KV cache; ours does on each GPU that we serve."""
        own = self.ours and self.own_attention
        if self.capability is None:
            return own
        return self.capability >= e4m3_since(own)

    @property
    def served_kv_dtype(self) -> str:
        """Return the dtype that `kv_dtype` leads to; BF16 if a declared FP8 cache cannot run."""
        if self.kv_dtype != "auto" or not self.fp8_kv:
            return self.kv_dtype
        return "fp8_e4m3" if self.runs_e4m3 else "bfloat16"

    @property
    def kv_dtype_bytes(self) -> int:
        return KV_DTYPE_BYTES[self.served_kv_dtype]

    @property
    def server(self) -> Server:
        """Return the facts that decide how KV memory is split."""
        beside = ("speculative_algorithm",) if self.draft else ()
        return Server(self.is_target, beside, kv_dtype=self.kv_dtype)


def parse_allowed(text: str) -> frozenset[str]:
    """Parse a comma-separated list of lossy choices. Raises PlanError on an unknown one."""
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    for name in sorted(names & NOT_YET.keys()):
        raise PlanError(f"--gemma4-allow {name} is not available yet: {NOT_YET[name]}")
    for name in sorted(names - ALLOWABLE):
        raise PlanError(f"--gemma4-allow offers {', '.join(sorted(ALLOWABLE))}, not {name!r}")
    return names


def check(question: Question) -> None:
    """Check the question against itself, its model and its GPU. Raises PlanError."""
    most = question.geometry.max_context
    if question.context is not None and question.context > most:
        raise PlanError(
            f"--context-length {question.context} is above the {most} tokens that "
            f"{question.geometry.name} was made for: lower it"
        )
    for flag, value in (
        ("--context-length", question.context),
        ("--max-running-requests", question.requests),
        ("--chunked-prefill-size", question.chunk),
        ("--for-requests", question.at_once),
        ("--tp", question.tp),
    ):
        if value is not None and value < 1:
            raise PlanError(f"{flag} must be at least 1, not {value}")
    if question.geometry.heads % question.tp:
        raise PlanError(
            f"--tp {question.tp} must divide the model's {question.geometry.heads} query heads"
        )
    if question.requests is not None and question.requests < question.at_once:
        raise PlanError(
            f"--max-running-requests {question.requests} is below --for-requests "
            f"{question.at_once}: raise the former or lower the latter"
        )
    fraction, ratio = question.mem_fraction, question.swa_ratio
    if fraction is not None and not 0 < fraction < 1:
        raise PlanError(f"--mem-fraction-static must be between 0 and 1, not {fraction}")
    if ratio is not None and not 0 < ratio <= 1:
        raise PlanError(f"--swa-full-tokens-ratio must be above 0 and at most 1, not {ratio}")
    if question.kv_dtype not in KV_DTYPE_BYTES:
        raise PlanError(
            f"--kv-cache-dtype must be one of {', '.join(KV_DTYPE_BYTES)}, "
            f"not {question.kv_dtype!r}"
        )
    if question.capability and not question.runs_e4m3:
        here = ".".join(map(str, question.capability))
        since = "SGLang's Triton attention needs 8.9 for it, and ours 8.0; leave the flag out"
        if question.kv_dtype == "fp8_e4m3":
            raise PlanError(
                f"--kv-cache-dtype fp8_e4m3 does not run on compute capability {here}: {since}"
            )
        if "kv8" in question.allowed:
            raise PlanError(
                f"--gemma4-allow kv8 does not run on compute capability {here}: {since}"
            )
