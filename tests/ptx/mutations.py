# SPDX-License-Identifier: Apache-2.0
"""Break one instruction of a compiled kernel at a time; list the faults that nothing detects.

    python -m tests.ptx.mutations [--case N] [--every N]

It prints one JSON object: the number of mutations, and those that neither the emulator nor the
result detects. Each is given as kernel, capability, change, and index within its kind.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from sglang_gemma4_ext.kernels import _arrivals
from sglang_gemma4_ext.kernels.nvfp4_dispatch import FOLDER, Config, read
from sglang_gemma4_ext.kernels.nvfp4_experts import nvfp4_experts
from sglang_gemma4_ext.kernels.nvfp4_linear import nvfp4_linear
from sglang_gemma4_ext.kernels.router_one_launch import route_one_launch
from tests.kernels.oracle import draw
from tests.ptx.emulated_gpu import EmulatedGpu

# name: (pattern, replacement). Every number stays, unless the replacement says "+1".
CHANGES = {
    "no bar.sync": (r"bar\.sync\s+0;", ""),
    "no bar.warp.sync": (r"bar\.warp\.sync\s+-1;", ""),
    "no cp.async.wait_group": (r"cp\.async\.wait_group\s+\d+;", ""),
    "cp.async.wait_group one later": (r"cp\.async\.wait_group\s+(\d+);", "+1"),
    "no fence.proxy.async": (r"fence\.proxy\.async\.shared::cta;", ""),
    "no wgmma.wait_group": (r"wgmma\.wait_group\.sync\.aligned\s+\d+;", ""),
    "relaxed atomic": (r"\.acq_rel\.", ".relaxed."),
    "copy of all bytes": (r"(cp\.async\.c[ag]\.shared\.global [^;]*, 0x\w+), %r\d+;", r"\1;"),
    "unguarded store": (r"@%p\d+ (st\.global)", r"\1"),
    "unguarded load": (r"@%p\d+ (ld\.global)", r"\1"),
    "another prmt selector": (r"0x1404;", "0x0414;"),
    "another sign mask": (r"0x80008000;", "0x80000000;"),
}
# There are many of one kind, so one in five is tried.
MANY = ("another prmt selector", "another sign mask", "unguarded store", "unguarded load")
MANY += ("copy of all bytes",)


class Case(NamedTuple):
    """Hold a kernel on a GPU, and launches of its host function that share one compiled code."""

    kernel: str
    sm: int
    launch: Callable[[], torch.Tensor]


def linear(sm: int, m: int, n: int, ks: tuple[int, ...], like: tuple[int, int]) -> Case:
    """Describe a linear. ks: a shorter K ends in the first tiles, copied before the loop."""
    config = read(FOLDER / f"sm_{sm}.json").choose("linear", m, *like)
    given = [(torch.randn(m, k).to(torch.bfloat16), *draw(n, k)) for k in ks]
    return Case(
        "_nvfp4_linear_kernel",
        sm,
        lambda: torch.cat([nvfp4_linear(*tensors, config=config) for tensors in given]),
    )


def split(sm: int) -> Case:
    """Describe a linear of three parts, in two launches that use the same counters."""
    config = Config(8, 32, 64, 3)
    given = [(torch.randn(1, 320).to(torch.bfloat16), *draw(33, 320)) for _ in range(2)]
    return Case(
        "_nvfp4_linear_kernel",
        sm,
        lambda: torch.cat([nvfp4_linear(*tensors, config=config) for tensors in given]),
    )


def experts_down(sm: int) -> Case:
    table = read(FOLDER / f"sm_{sm}.json")
    up, down = table.choose("experts_up", 1, 1408, 2816), table.choose("experts_down", 1, 2816, 704)
    ids = torch.tensor([[0, 1], [1, -1]], dtype=torch.int32)
    given = [
        (torch.randn(2, 700 + 4), ids, torch.rand(2, 2), *draw(3, 2 * k, 704), *draw(3, 704, k))
        for k in (352, 96)
    ]

    def launch() -> torch.Tensor:
        configs = {"up_config": up, "down_config": down}
        outs = [nvfp4_experts(x.half(), *rest, "silu", **configs) for x, *rest in given]
        return torch.cat(outs)

    return Case("_experts_down_kernel", sm, launch)


def router(sm: int) -> Case:
    x, scale = torch.randn(1, 1500).to(torch.bfloat16), torch.rand(1500).to(torch.bfloat16)
    proj, per_expert = torch.randn(17, 1500).to(torch.bfloat16), torch.rand(17).to(torch.bfloat16)

    def launch() -> torch.Tensor:
        arrivals = torch.zeros(1, dtype=torch.int32)
        return torch.cat(route_one_launch(x, scale, proj, per_expert, 4, 1e-6, arrivals)[:2], 1)

    return Case("_route_one_launch_kernel", sm, launch)


def cases() -> tuple[Case, ...]:
    torch.manual_seed(0)
    return (
        linear(86, 1, 33, (1344, 192), (8192, 3840)),
        linear(86, 63, 126, (704, 192), (2816, 2112)),
        linear(90, 17, 126, (704, 192), (8192, 3840)),
        experts_down(86),
        router(90),
        split(90),
    )


def mutants(ptx: str, every: int) -> Iterator[tuple[str, int, str]]:
    """Yield (change, number within its kind, mutated PTX) of every mutation, or of each Nth."""
    for what, (pattern, to) in CHANGES.items():
        step = every * (5 if what in MANY else 1)
        for number, found in list(enumerate(re.finditer(pattern, ptx)))[::step]:
            if to == "+1":
                new = found[0].replace(found[1], str(int(found[1]) + 1))
            else:
                new = found.expand(to)
            yield what, number, ptx[: found.start()] + new + ptx[found.end() :]


def run(case: Case, every: int) -> tuple[int, list[tuple[str, int, str, int]]]:
    """Return the number of mutations, and those that nothing detected."""
    with EmulatedGpu(case.sm) as gpu:
        want = case.launch()
    texts = {launch.ptx for launch in gpu.launches if launch.kernel == case.kernel}
    assert len(texts) == 1, f"{len(texts)} codes of {case.kernel} in one case"
    assert not gpu.findings
    (ptx,) = texts
    count, undetected = 0, []
    for what, number, mutant in mutants(ptx, every):
        count += 1
        _arrivals._kept.clear()  # the last mutant may have left any count
        try:
            change = {ptx: mutant}
            with EmulatedGpu(case.sm, change=lambda text, c=change: c.get(text, text)) as gpu:
                got = case.launch()
            if not gpu.findings and torch.equal(got, want):
                undetected.append((case.kernel, case.sm, what, number))
        except Exception:  # any exception of the mutant counts as detected
            continue
    return count, undetected


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=int, action="append", help="only this one, from 0")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each Nth of a kind")
    args = parser.parse_args()
    chosen = [case for i, case in enumerate(cases()) if args.case is None or i in args.case]
    results = [run(case, args.every) for case in chosen]
    undetected = [mutation for _, some in results for mutation in some]
    print(json.dumps({"mutations": sum(count for count, _ in results), "undetected": undetected}))
