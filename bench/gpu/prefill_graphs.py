# SPDX-License-Identifier: Apache-2.0
"""Compare log-probabilities with prefill CUDA graphs on and off.

    python -m bench.gpu.prefill_graphs --out DIR

Small checkpoints of each class are served in BF16, once by breakable prefill graphs and once
without. Prompts are shorter and longer than a chunk, and one continues a cached prefix. Both sides
are measured against transformers in fp32: their errors must have the same size. A wrong position or
a padded row that is read makes the error of one side many times larger. The status is 1 then.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.checkpoints.tiny import build
from bench.checkpoints.tokenizer import prompt_ids
from bench.conditions import conditions, gpu, write
from bench.processes import Server, free_port, started, wait_until_ready

KINDS = {
    "dense": "Gemma4ForConditionalGeneration",
    "moe": "Gemma4ForConditionalGeneration",
    "e2b": "Gemma4ForConditionalGeneration",
    "unified": "Gemma4UnifiedForConditionalGeneration",
}
SIDES = {"graphs": "breakable", "eager": "disabled"}
CHUNK, PROMPTS, NEW_TOKENS = 256, (5, 33, 250, 700), 8
# Both errors are the same roundings in another order.
SPREAD = 1.5
START_SECONDS = 240


def served(answer: dict[str, Any]) -> torch.Tensor:
    """Return log-probabilities of the answer's prompt tokens but the first, and its new tokens."""
    meta = answer["meta_info"]
    entries = meta["input_token_logprobs"][1:] + meta["output_token_logprobs"]
    return torch.tensor([float("nan") if value is None else value for value, *_ in entries])


@torch.inference_mode()
def expected(model: Any, prompt: list[int], new: list[int]) -> torch.Tensor:
    """Return what `served` returns, of transformers fed the same tokens."""
    tokens = torch.tensor([*prompt, *new])
    table = model(tokens[None]).logits[0].float().log_softmax(-1)
    return table[:-1].gather(1, tokens[1:, None])[:, 0]


def errors(server: Server, model: Any, prompts: tuple[int, ...], new: int) -> torch.Tensor:
    """Measure a server against transformers, over all prompts and one cached prefix."""
    found = []
    for length in prompts:
        ids = prompt_ids(length)
        answer = server.generate(ids, new)
        found.append(served(answer) - expected(model, ids, answer["output_ids"]))
    ids = [*prompt_ids(prompts[-1]), *prompt_ids(20, seed=2)]
    answer = server.generate(ids, new, logprobs_from=-1)
    ours = served(answer)
    found.append(ours - expected(model, ids, answer["output_ids"])[-len(ours) :])
    return torch.cat(found)


def rms(difference: torch.Tensor) -> float:
    """Return the root mean square; a NaN counts as infinite."""
    return difference.nan_to_num(nan=float("inf")).square().mean().sqrt().item()


def compare(kind: str, out: Path, toy: bool) -> dict[str, Any]:
    """Serve a kind both ways; return the row of its errors."""
    with tempfile.TemporaryDirectory() as folder:
        path = build(kind, Path(folder) / kind)
        model = getattr(transformers, KINDS[kind]).from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager"
        )
        row: dict[str, Any] = {"kind": kind, "toy": toy}
        for side, backend in SIDES.items():
            flags = ["--model-path", str(path), "--dtype", "bfloat16"]
            flags += ["--chunked-prefill-size", str(CHUNK)]
            if not toy:  # a CPU has no graphs: both sides are then the same
                flags += ["--cuda-graph-backend-prefill", backend]
                flags += ["--attention-backend", "triton", "--sampling-backend", "pytorch"]
            command = [sys.executable, "-m", "sglang_gemma4_ext.launch_server", *flags]
            log = out / "logs" / f"prefill_{kind}_{side}.log"
            given = {"port": str(free_port()), "env": dict(os.environ), "cwd": out}
            with started(command, log, **given) as server:
                wait_until_ready(server, START_SECONDS, "Ready: ")
                prompts = PROMPTS[:2] if toy else PROMPTS
                found = errors(server, model, prompts, 2 if toy else NEW_TOKENS)
            row |= {f"{side}_rms": rms(found), f"{side}_worst": found.abs().max().item()}
    return row


def equal(row: dict[str, Any]) -> bool:
    """Return whether graphs are as near to transformers as eager prefill is."""
    return row["graphs_rms"] <= SPREAD * row["eager_rms"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--kind", action="append", choices=KINDS, help="(default: all)")
    parser.add_argument("--toy", action="store_true", help="one kind on a CPU, without graphs")
    args = parser.parse_args(argv)
    if gpu("name") is None and not args.toy:
        parser.error("needs an NVIDIA GPU; without one: --toy")
    kinds = ["dense"] if args.toy else args.kind or list(KINDS)
    shared = conditions("python -m bench.gpu.prefill_graphs")
    rows = [shared | compare(kind, args.out.resolve(), args.toy) for kind in kinds]
    write(rows, args.out / "prefill_graphs.jsonl")
    for row in rows:
        verdict = "equal" if equal(row) else "DIFFERENT"
        print(f"{row['kind']}: graphs {row['graphs_rms']:.3g}, eager {row['eager_rms']:.3g} rms: "
              f"{verdict}")  # fmt: skip
    return 0 if all(map(equal, rows)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
