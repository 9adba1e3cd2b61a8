# SPDX-License-Identifier: Apache-2.0
"""List the shapes [N, K] of Gemma 4's stacked linears and experts, whole and in shards."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_gemma4_ext.kernels.nvfp4_block import BLOCK
from sglang_gemma4_ext.plan.geometry import BUILT_IN, Geometry


@dataclass(frozen=True)
class Model:
    """Hold the sizes that determine a model's linears; sliding heads are 256 wide, full ones 512.

    full_kv_heads are keys and values: K = V layers load them twice.
    """

    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    full_kv_heads: int
    expert: int = 0

    @classmethod
    def of(cls, geometry: Geometry) -> Model:
        return cls(
            geometry.hidden, geometry.intermediate, geometry.heads, geometry.kv_heads,
            geometry.global_kv_heads, geometry.expert_intermediate,
        )  # fmt: skip

    def linears(self, tp: int = 1) -> dict[str, tuple[int, int]]:
        """Return (N, K) of one rank of `tp`; ranks that share a KV head each have it."""
        sliding, full = self.heads // tp * 256, self.heads // tp * 512
        sliding_kv, full_kv = (max(1, n // tp) for n in (self.kv_heads, self.full_kv_heads))
        return {
            "qkv sliding": (sliding + 2 * sliding_kv * 256, self.hidden),
            "qkv full": (full + 2 * full_kv * 512, self.hidden),
            "o sliding": (self.hidden, sliding),
            "o full": (self.hidden, full),
            "gate_up": (2 * self.mlp // tp, self.hidden),
            "down": (self.hidden, self.mlp // tp),
        }

    def experts(self, tp: int = 1) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return (N, K) of w13 and w2 of one rank's share of an expert."""
        inner = self.expert // tp
        return (2 * inner, self.hidden), (self.hidden, inner)

    def splits(self) -> tuple[int, ...]:
        """Return the tensor-parallel sizes at which every K is a multiple of 16, as NVFP4 needs."""
        widths = [self.mlp, *([self.expert] if self.expert else [])]
        return tuple(tp for tp in (1, 2, 4, 8) if all(w % (tp * BLOCK) == 0 for w in widths))


# The models that have NVFP4 checkpoints.
MODELS = {name: Model.of(BUILT_IN[name]) for name in ("12B", "26B-A4B", "31B")}
EXPERT_COUNT, TOP_K = BUILT_IN["26B-A4B"].experts, BUILT_IN["26B-A4B"].top_k


def named(tp: int = 1) -> dict[str, tuple[int, int]]:
    """Return (N, K) by name of every quantized linear of 12B, 26B-A4B and 31B that `tp` splits."""
    return {
        f"{model} {name}": shape
        for model, sizes in MODELS.items()
        if tp in sizes.splits()
        for name, shape in sizes.linears(tp).items()
    }


def experts(tp: int = 1) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return (w13, w2) of one expert; None if `tp` does not split it."""
    model = MODELS["26B-A4B"]
    return model.experts(tp) if tp in model.splits() else None


NAMED = named()

# The shards of each tensor-parallel size. No Gemma 4 has 928, but it must work.
_SHARDS = [m.linears(tp) for m in MODELS.values() for tp in m.splits()]
GATED_SHARDS = frozenset(shard["gate_up"] for shard in _SHARDS)
LINEAR_SHARDS = tuple(
    dict.fromkeys([*(s for shard in _SHARDS for s in shard.values()), (928, 2816), (2816, 928)])
)
EXPERT_SHARDS = tuple(experts(tp) for tp in MODELS["26B-A4B"].splits())
