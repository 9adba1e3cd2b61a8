# SPDX-License-Identifier: Apache-2.0
"""Time the MoE router by our kernels, SGLang's and PyTorch's, by number of tokens, on one GPU.

    python -m bench.kernels.router --out bench/results/router_NAME.jsonl [--write-table]

`choice` is top-k, softmax and scale over given logits; `router` is norm, scales, projection and
choice. Our kernels have no time if their fp32 result is wrong. The others compute in BF16, so they
are not checked: `ids_equal` is the share of tokens whose experts are those of float64.
--write-table writes the row that follows from the times to kernels/router_dispatch.json. --toy, on
a CPU with TRITON_INTERPRET=1, runs small sizes without times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
import triton

from bench.conditions import capability, kernel_conditions
from bench.kernels.command import arguments, parsed, written
from bench.kernels.timing import copies_for, measure
from sglang_gemma4_ext.kernels.router import route, route_ref
from sglang_gemma4_ext.kernels.router_dispatch import TABLE
from sglang_gemma4_ext.kernels.router_one_launch import route_one_launch, route_one_launch_ref

TOKENS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 1024, 2048)
# Gemma 4 26B-A4B: hidden size, experts, chosen experts.
SIZES = (2816, 128, 8)
TOY_TOKENS, TOY_SIZES = (1, 3), (64, 8, 2)
EPS = 1e-6
# Weights against float64 of the same logits; fp32 inside.
LIMIT = 2e-6
# Ours must be at least this much faster than SGLang's to be worth another kernel.
WORTH = 0.97

Call = Callable[[], tuple[torch.Tensor, ...]]


def torch_choice(logits: torch.Tensor, scale: torch.Tensor, k: int) -> tuple[torch.Tensor, ...]:
    best, ids = torch.topk(logits, k, dim=-1)
    weights = torch.softmax(best, dim=-1) * scale[ids].to(best.dtype)
    return weights.float(), ids.int()


def choice_rows(tokens: int, sizes: tuple[int, int, int], device: str) -> Iterator[dict[str, Any]]:
    """Yield rows of the choice over BF16 logits, as SGLang's projection gives them."""
    from sglang.kernels.ops.moe.gemma4_routing import gemma4_fused_routing

    _, experts, k = sizes
    logits = torch.randn(tokens, experts, device=device).to(_dtype())
    scale = torch.rand(experts, device=device)
    want = route_ref(logits.double(), scale, k)
    calls: dict[str, Call] = {
        "ours": lambda: route(logits, scale, k),
        "sglang": lambda: gemma4_fused_routing(logits, scale, k),
        "torch": lambda: torch_choice(logits, scale, k),
    }
    for name, call in calls.items():
        yield _row("choice", name, tokens, [call], want, gated=name == "ours")


def router_rows(tokens: int, sizes: tuple[int, int, int], device: str) -> Iterator[dict[str, Any]]:
    """Yield rows of SGLang's three launches, of those with our last one, and of our one launch."""
    hidden, experts, k = sizes
    copies = []
    for _ in range(copies_for(hidden * experts * 2)):
        copies.append(
            {
                "x": torch.randn(tokens, hidden, device=device).to(_dtype()),
                "scale": torch.randn(hidden, device=device).to(_dtype()),
                "proj": (torch.randn(experts, hidden, device=device) / 4).to(_dtype()),
                "expert_scale": torch.rand(experts, device=device).to(_dtype()),
                "arrivals": torch.zeros(tokens, dtype=torch.int32, device=device),
                "k": k,
                "eps": EPS,
            }
        )
    first = copies[0]
    want = route_one_launch_ref(**{**first, "x": first["x"].double()})[1:]
    for name, make in _routers(device).items():
        calls = [make(copy) for copy in copies]
        yield _row("router", name, tokens, calls, want, gated=name == "one launch")


def _routers(device: str) -> dict[str, Callable[[dict[str, Any]], Call]]:
    from sglang.kernels.ops.moe.gemma4_routing import gemma4_fused_routing
    from sglang.srt.layers.layernorm import Gemma4RMSNorm

    def projected(copy: dict[str, Any]) -> Callable[[], torch.Tensor]:
        norm = Gemma4RMSNorm(copy["x"].shape[1], eps=EPS, with_scale=False)
        norm.with_scale = True
        fused = copy["scale"].float() * copy["x"].shape[1] ** -0.5
        norm.weight.data = fused.to(copy["scale"].dtype)
        run = norm.forward_cuda if device == "cuda" else norm.forward_native
        return lambda: torch.nn.functional.linear(run(copy["x"]), copy["proj"])

    def after(choose: Callable[..., Any]) -> Callable[[dict[str, Any]], Call]:
        def make(copy: dict[str, Any]) -> Call:
            logits = projected(copy)
            return lambda: choose(logits(), copy["expert_scale"], copy["k"])

        return make

    return {
        "one launch": lambda copy: lambda: route_one_launch(**copy)[1:],
        "ours": after(route),
        "sglang": after(gemma4_fused_routing),
        "torch": after(torch_choice),
    }


def _row(
    op: str,
    provider: str,
    tokens: int,
    calls: list[Call],
    want: tuple[torch.Tensor, ...],
    gated: bool,
) -> dict[str, Any]:
    """Make a row. gated: without float64's result there is no time."""
    weights, ids = calls[0]()
    same = (ids == want[1]).all(-1)
    row = {
        "op": op,
        "provider": provider,
        "tokens": tokens,
        "ids_equal": same.float().mean().item(),
    }
    if gated:
        off = (weights[same] - want[0][same]).abs().max().item() if same.any() else 1.0
        # Two experts that fp32 cannot distinguish may be swapped in float64.
        row["correct"] = off <= LIMIT and row["ids_equal"] >= 0.99
        if not row["correct"]:
            return row
    time = measure(calls)
    return row if time is None else row | asdict(time)


def row_from(rows: list[dict[str, Any]], measured: str) -> dict[str, Any]:
    """Derive the table's row: the one launch serves up to the tokens at which it stops winning."""
    times = {
        (row["op"], row["provider"], row["tokens"]): row["median_us"]
        for row in rows
        if "median_us" in row
    }
    up_to = 0
    for tokens in sorted({row["tokens"] for row in rows}):
        ours = times.get(("router", "one launch", tokens), float("inf"))
        if ours > WORTH * times["router", "sglang", tokens]:
            break
        up_to = tokens
    choices = [tokens for op, provider, tokens in times if (op, provider) == ("choice", "sglang")]
    # Beyond the bound our choice runs after SGLang's projection: it must not be slower than theirs.
    slower = any(
        times.get(("choice", "ours", tokens), float("inf")) * WORTH
        > times["choice", "sglang", tokens]
        for tokens in choices
    )
    prefer = "fused" if up_to and not slower else "sglang"
    return {"measured": measured, "prefer": prefer, "one_launch_max_tokens": up_to}


def _dtype() -> torch.dtype:
    """Return BF16, or FP32 in the interpreter, which has no BF16 arithmetic."""
    return torch.float32 if triton.knobs.runtime.interpret else torch.bfloat16


def main(argv: list[str] | None = None) -> int:
    parser = arguments(__doc__.splitlines()[0], table="kernels/router_dispatch.json")
    args = parsed(parser, argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    tokens, sizes = (TOY_TOKENS, TOY_SIZES) if args.toy else (TOKENS, SIZES)
    made_under = kernel_conditions("bench.kernels.router")
    with torch.inference_mode():
        found = (
            row | made_under
            for count in tokens
            for make in (choice_rows, router_rows)
            for row in make(count, sizes, device)
        )
        rows = written(found, args.out)
    wrong = [row for row in rows if row.get("correct") is False]
    if args.write_table and not wrong:
        table = json.loads(TABLE.read_text())
        table[capability()] = row_from(rows, str(args.out))
        lines = ",\n".join(f'  "{name}": {json.dumps(row)}' for name, row in table.items())
        TABLE.write_text(f"{{\n{lines}\n}}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
