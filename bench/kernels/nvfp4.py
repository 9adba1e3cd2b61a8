# SPDX-License-Identifier: Apache-2.0
"""NVFP4 kernels against SGLang's Marlin, dequantize-then-matmul and cuBLAS BF16, on one GPU.

    python -m bench.kernels.nvfp4 [--out bench/results/nvfp4_NAME.jsonl] [--shape "12B down"]

Correctness first: a shape at which a provider is off has no time. Then every shape of Gemma 4 by
every M, under CUDA graphs with a cold L2, each row one JSON line. --toy runs small shapes without
times, on a CPU in Triton's interpreter with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton

from bench.kernels import providers, shapes
from bench.kernels.plot import plot
from bench.kernels.timing import copies_for, copy_gb_s, measure
from sglang_gemma4_ext.kernels.nvfp4_format import dequantize
from sglang_gemma4_ext.kernels.nvfp4_linear_ref import nvfp4_experts_ref

TOKENS = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096)
TOY = {"toy": (64, 128)}
TOY_TOKENS = (1, 5)
# RMS(error) / RMS(exact) in BF16: one rounding of the result is 0.0017, of the weights as much;
# experts round their intermediate too. Marlin rounds its scales.
LIMIT = {"linear": 6e-3, "experts": 1e-2}


def linears(named: dict[str, tuple[int, int]], tokens: tuple[int, ...], device: str) -> Iterator:
    """Rows of every linear, M and provider."""
    for name, (n, k) in named.items():
        size = n * (k // 2 + k // 16 + 4)
        weights = [providers.draw(n, k, device=device, seed=i) for i in range(copies_for(size))]
        packed, block, row = weights[0]
        exact = dequantize(packed, block, row[:, None], torch.float32)
        for m in tokens:
            x = torch.randn(m, k, device=device).to(_dtype())
            want = x.float() @ exact.T
            row_of = {"op": "linear", "shape": name, "n": n, "k": k, "m": m}
            yield from _rows(row_of, providers.LINEAR, [(w,) for w in weights], x, want, size)


def experts(count: int, top_k: int, tokens: tuple[int, ...], device: str, toy: bool) -> Iterator:
    """Rows of the routed experts, random routing, every M and provider."""
    (n13, k13), (n2, k2) = ((64, 32), (32, 32)) if toy else shapes.EXPERTS[0]
    w13 = providers.draw(count, n13, k13, device=device)
    w2 = providers.draw(count, n2, k2, device=device, seed=1)
    for m in tokens:
        x = torch.randn(m, k13, device=device).to(_dtype())
        scores = torch.rand(m, count, device=device)
        routing = scores.topk(top_k, dim=-1)
        ids, weights = routing.indices.int(), routing.values
        want = nvfp4_experts_ref(x.float(), ids, weights, *w13, *w2, "gelu_tanh")
        used = ids.unique().numel()
        size = used * (n13 * (k13 // 2 + k13 // 16 + 4) + n2 * (k2 // 2 + k2 // 16 + 4))
        row_of = {"op": "experts", "shape": f"{count} experts, top {top_k}", "n": n13, "k": k13}
        arguments = [(w13, w2, ids, weights)]
        yield from _rows({**row_of, "m": m}, providers.EXPERTS, arguments, x, want, size)


def _rows(
    row_of: dict[str, Any],
    makers: dict[str, Callable[..., providers.Call]],
    copies: list[tuple],
    x: torch.Tensor,
    want: torch.Tensor,
    size: int,
) -> Iterator[dict[str, Any]]:
    """One row a provider. size: bytes of weights that a call must read."""
    times = {}
    for name, make in makers.items():
        if name == "marlin" and not x.is_cuda:
            continue
        calls = [make(*arguments) for arguments in copies]
        error = ((calls[0](x).float() - want).square().mean() / want.square().mean()).sqrt().item()
        row = {**row_of, "provider": name, "error_rms": error}
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


def _dtype() -> torch.dtype:
    """BF16, as Gemma is served; the interpreter has no BF16 arithmetic."""
    return torch.float16 if triton.knobs.runtime.interpret else torch.bfloat16


def conditions(device: str) -> dict[str, Any]:
    """What every row was made under."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "interpreted": triton.knobs.runtime.interpret,
        "dtype": str(_dtype()),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON lines; the plot goes beside it as .svg")
    parser.add_argument("--shape", action="append", choices=[*shapes.NAMED, "experts"])
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--toy", action="store_true", help="small shapes, no times")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not (args.toy and triton.knobs.runtime.interpret):
        parser.error("needs an NVIDIA GPU; without one: TRITON_INTERPRET=1 ... --toy")
    named, tokens = (TOY, TOY_TOKENS) if args.toy else (shapes.NAMED, tuple(args.tokens))
    if args.shape:
        named = {name: shape for name, shape in shapes.NAMED.items() if name in args.shape}
    rows = list(_all(named, tokens, device, args))
    if args.out:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
        plot(rows, args.out.with_suffix(".svg"))
    wrong = [row for row in rows if row.get("correct") is False]
    for row in wrong:
        print("wrong:", json.dumps(row), file=sys.stderr)
    return 1 if any(row["provider"] == "fused" for row in wrong) else 0


def _all(named: dict, tokens: tuple[int, ...], device: str, args: Any) -> Iterator[dict[str, Any]]:
    common, bandwidth = conditions(device), copy_gb_s()
    count, top_k = (4, 2) if args.toy else (shapes.EXPERT_COUNT, shapes.TOP_K)
    found = [linears(named, tokens, device)]
    if not args.shape or "experts" in args.shape:
        found.append(experts(count, top_k, tokens, device, args.toy))
    for rows in found:
        for row in rows:
            if "gb_s" in row:
                row["copy_gb_s"], row["share_of_copy"] = bandwidth, row["gb_s"] / bandwidth
            print(json.dumps(row), flush=True)
            yield {**row, **common}


if __name__ == "__main__":
    sys.exit(main())
