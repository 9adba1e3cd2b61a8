# SPDX-License-Identifier: Apache-2.0
"""Time NVFP4 kernels, Marlin, Humming, dequantize-then-matmul and cuBLAS BF16 on one GPU.

    python -m bench.kernels.nvfp4 [--out bench/results/nvfp4_NAME.jsonl] [--shape "12B down"]

A provider whose error is too large has no time. Each shape of Gemma 4 (a rank's share, with --tp)
and each M is timed under CUDA graphs with a cold L2; a row is a JSON line. `gate_up` is the linear
and its activation. --write-table writes the faster shapes to this GPU's own file of
kernels/nvfp4_configs. --toy runs small shapes without times, on a CPU in Triton's interpreter with
TRITON_INTERPRET=1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from bench.conditions import kernel_conditions
from bench.kernels import nvfp4_table, providers, shapes
from bench.kernels.command import arguments, parsed, written
from bench.kernels.plot import plot
from bench.kernels.timing import copies_for, copy_gb_s, measure
from sglang_gemma4_ext.kernels.nvfp4_dequant import dequant
from sglang_gemma4_ext.kernels.nvfp4_format import dequantize
from sglang_gemma4_ext.kernels.nvfp4_ref import nvfp4_experts_ref

TOY = {"toy": (64, 128), "toy gate_up": (32, 64)}
TOY_EXPERTS = (((64, 32), (32, 32)), 4, 2)
TOY_TOKENS = (1, 5)
# RMS(error) / RMS(exact) in BF16: one rounding of the result is 0.0017, of the weights as much;
# an activation and experts round their intermediate too. Marlin rounds its scales.
LIMIT = {"linear": 6e-3, "gate_up": 1e-2, "experts": 1e-2, "dequant": 2e-3}

Rows = Iterator[dict[str, Any]]


def linears(
    named: dict[str, tuple[int, int]],
    tokens: Sequence[int],
    device: str,
    left_out: Collection[str] = (),
) -> Rows:
    """Yield rows of every linear, M and provider, and of a gate_up with its activation."""
    for name, (n, k) in named.items():
        size = n * (k // 2 + k // 16 + 4)
        weights = [providers.draw(n, k, device=device, seed=i) for i in range(copies_for(size))]
        packed, block, row = weights[0]
        exact = dequantize(packed, block, row[:, None], torch.float32)
        shape = {"shape": name, "n": n, "k": k}
        yield from _unpacked(shape, weights, exact, size)
        for m in tokens:
            x = torch.randn(m, k, device=device).to(providers.dtype())
            want = x.float() @ exact.T
            linear = {"op": "linear", **shape, "m": m}
            yield from _rows(linear, _of(providers.LINEAR, weights, left_out), x, want, size)
            if name.endswith("gate_up"):
                want = providers.gelu_and_mul(want)
                gated = {**linear, "op": "gate_up"}
                yield from _rows(gated, _of(providers.GATE_UP, weights, left_out), x, want, size)


def _of(
    makers: dict[str, Callable], weights: list[providers.Weight], left_out: Collection[str]
) -> Iterator[tuple[str, list[providers.Call]]]:
    """Yield each provider's calls, on copies of the weights that live while they are timed."""
    for name, make in makers.items():
        if name not in left_out:
            yield name, [providers.attempted(make, weight) for weight in weights]


def _unpacked(
    shape: dict[str, Any], weights: list[providers.Weight], exact: torch.Tensor, size: int
) -> Rows:
    """Yield rows of the dequant kernel and of PyTorch's arithmetic; M is 0."""
    makers = {
        "fused": lambda p, b, r: lambda x: dequant(p, b, r[:, None], x.dtype),
        "torch": lambda p, b, r: lambda x: dequantize(p, b, r[:, None], x.dtype),
    }
    x = exact.new_empty(0, dtype=providers.dtype())
    calls = ((name, [make(*weight) for weight in weights]) for name, make in makers.items())
    yield from _rows({"op": "dequant", **shape, "m": 0}, calls, x, exact, size)


def experts(
    sizes: tuple[tuple[int, int], tuple[int, int]],
    count: int,
    top_k: int,
    tokens: Sequence[int],
    device: str,
    left_out: Collection[str] = (),
) -> Rows:
    """Yield rows of the routed experts: every M and provider, with routings for a cold L2."""
    (n13, k13), (n2, k2) = sizes
    w13 = providers.draw(count, n13, k13, device=device)
    w2 = providers.draw(count, n2, k2, device=device, seed=1)
    an_expert = n13 * (k13 // 2 + k13 // 16 + 4) + n2 * (k2 // 2 + k2 // 16 + 4)
    shape = {"shape": f"{count} experts, top {top_k}", "n": n13, "k": k13}
    routed = {
        name: providers.attempted(make, w13, w2)
        for name, make in providers.EXPERTS.items()
        if name not in left_out
    }
    for m in tokens:
        x = torch.randn(m, k13, device=device).to(providers.dtype())
        first = _routing(m, count, top_k, device)
        size = first[0].unique().numel() * an_expert
        every = [first, *(_routing(m, count, top_k, device) for _ in range(copies_for(size) - 1))]
        want = nvfp4_experts_ref(x.float(), *first, *w13, *w2, providers.ACTIVATION)
        calls = (
            (name, [providers.attempted(make, *routing) for routing in every])
            for name, make in routed.items()
        )
        yield from _rows({"op": "experts", **shape, "m": m}, calls, x, want, size)


def _routing(m: int, count: int, top_k: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    best = torch.rand(m, count, device=device).topk(top_k, dim=-1)
    return best.indices.int(), best.values


def _rows(
    row_of: dict[str, Any],
    providers_calls: Iterator[tuple[str, list[providers.Call]]],
    x: torch.Tensor,
    want: torch.Tensor,
    size: int,
) -> Rows:
    """Yield a row for each provider, then the ratios. size: bytes of weights that a call reads.

    The row of a provider that raises says why. Ours must not raise.
    """
    times = {}
    for name, calls in providers_calls:
        try:
            got = calls[0](x).float()
        except Exception as problem:
            if name == "fused":
                raise
            failed = f"{type(problem).__name__}: {problem}"
            yield {**row_of, "provider": name, "correct": False, "failed": failed}
            continue
        error = ((got - want).square().mean() / want.square().mean()).sqrt().item()
        row = {**row_of, "provider": name, "dtype": str(x.dtype), "error_rms": error}
        row["correct"] = bool(error <= LIMIT[row_of["op"]])
        if row["correct"]:
            time = measure([lambda call=call: call(x) for call in calls])
            if time is not None:
                times[name] = time.median_us
                row |= asdict(time)
                row["gb_s"] = (size + 2 * x.numel() + 2 * want.numel()) / time.median_us / 1000
        yield row
    if "fused" in times:
        ratios = {name: us / times["fused"] for name, us in times.items() if name != "fused"}
        yield {**row_of, "provider": "ratio", "times_of_fused": ratios}


def main(argv: list[str] | None = None) -> int:
    parser = arguments(__doc__.splitlines()[0], table="kernels/nvfp4_configs/NAME.json")
    parser.add_argument("--shape", action="append", choices=[*shapes.NAMED, "experts"])
    parser.add_argument("--tokens", type=int, nargs="+", default=nvfp4_table.TOKENS)
    parser.add_argument(
        "--humming", action="store_true", help="Humming too, which first compiles for each shape"
    )
    parser.add_argument("--tp", type=int, choices=(1, 2, 4, 8), default=1)
    args = parsed(parser, argv)
    rows = written(_all(args), args.out)
    if args.out:
        plot(rows, args.out.with_suffix(".svg"))
    wrong = [row for row in rows if row.get("correct") is False]
    for row in wrong:
        print("wrong:", json.dumps(row), file=sys.stderr)
    if any(row["provider"] == "fused" for row in wrong):
        return 1
    if args.write_table:
        nvfp4_table.write(rows, str(args.out), torch.cuda.get_device_name())
    return 0


def _all(args: Any) -> Rows:
    made_under, bandwidth = kernel_conditions("bench.kernels.nvfp4"), copy_gb_s()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    named, tokens = shapes.named(args.tp), args.tokens
    moe = (shapes.experts(args.tp), shapes.EXPERT_COUNT, shapes.TOP_K)
    if args.toy:
        named, moe, tokens = TOY, TOY_EXPERTS, TOY_TOKENS
    elif args.shape:
        named = {name: shape for name, shape in named.items() if name in args.shape}
    left_out = set() if args.humming else {"humming"}
    left_out |= set() if device == "cuda" else set(providers.GPU_ONLY)
    found = [linears(named, tokens, device, left_out)]
    if moe[0] is not None and (not args.shape or "experts" in args.shape):
        found.append(experts(*moe, tokens, device, left_out))
    for rows in found:
        for row in rows:
            if "gb_s" in row:
                row |= {"copy_gb_s": bandwidth, "share_of_copy": row["gb_s"] / bandwidth}
            yield row | made_under


if __name__ == "__main__":
    sys.exit(main())
