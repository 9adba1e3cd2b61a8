# SPDX-License-Identifier: Apache-2.0
"""Run the kernels whose last program adds the parts, with thread blocks in several orders.

    python -m tests.ptx.arrivals --sm 90

It prints one JSON object: the findings of all launches, how many distinct results each call had,
its launches, and how many counters are not zero afterwards.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.kernels import _arrivals
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config
from sglang_gemma4_ext.kernels.nvfp4_experts import nvfp4_experts
from sglang_gemma4_ext.kernels.nvfp4_linear import nvfp4_linear
from tests.kernels.oracle import draw
from tests.ptx.emulated_gpu import EmulatedGpu

ORDERS: tuple[dict[str, Any], ...] = (
    {},
    {"order": "reverse", "batch": 1},
    *({"order": "random", "schedule": "random", "seed": seed} for seed in range(4)),
)


def calls() -> dict[str, Callable[[], torch.Tensor]]:
    """Return calls by name: narrow and wide tiles, an activation, slots without an expert."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(17, 320, generator=g).half()
    weight, gated = draw(70, 320), draw(2 * 21, 320, parts=2)
    w13, w2 = draw(3, 96, 64), draw(3, 64, 48)
    ids = torch.tensor([[0, 2, 1], [-1, 1, -1]], dtype=torch.int32)
    routing = (torch.randn(2, 64, generator=g).half(), ids, torch.rand(2, 3, generator=g))
    small = Config(8, 32, 64)
    return {
        "linear": lambda: nvfp4_linear(x[:3], *weight, config=Config(8, 32, 64, 5)),
        "wide": lambda: nvfp4_linear(x, *weight, config=Config(32, 32, 64, 5)),
        "gated": lambda: nvfp4_linear(
            x[:9], *gated, activation="silu", config=Config(16, 32, 64, 3)
        ),
        "experts": lambda: nvfp4_experts(
            *routing, *w13, *w2, "silu", up_config=small, down_config=small
        ),
    }


def run(sm: int) -> dict[str, object]:
    """Run each call in every order, twice each, so that a launch finds the counters of another."""
    results: dict[str, set[bytes]] = {}
    findings: list[str] = []
    launches: dict[str, int] = {}
    for order in ORDERS:
        with EmulatedGpu(sm, **order) as gpu:
            for name, call in [*calls().items()] * 2:
                before = len(gpu.launches)
                results.setdefault(name, set()).add(call().numpy().tobytes())
                launches[name] = len(gpu.launches) - before
        findings += [f"{order}: {found}" for kind in gpu.findings.values() for found in kind]
    left = sum(int(kept.count_nonzero()) for kept in _arrivals._kept.values())
    distinct = {name: len(seen) for name, seen in results.items()}
    return {
        "findings": findings,
        "distinct": distinct,
        "launches": launches,
        "counters_left": left,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sm", type=int, required=True)
    print(json.dumps(run(parser.parse_args().sm)))
