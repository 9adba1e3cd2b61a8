# SPDX-License-Identifier: Apache-2.0
"""Measure how far an 8-bit embedding and head moves log-probabilities and the demo's answers.

    python -m bench.head_distance --out bench/results/head_distance_cpu.jsonl

Models run in transformers, in fp32, teacher-forced. Both uses of the tied table are rounded. Each
row says how far a rounded model is from the stored one. `int8` is what --gemma4-head int8 serves;
`e4m3` has a scale a row too, and shows what the same bytes in FP8 would cost.
"""

from __future__ import annotations

from typing import Any

import torch

from bench.kv_distance import distance, run
from sglang_gemma4_ext.demo.training import measure
from sglang_gemma4_ext.kernels.int8_rows import dequantize, quantize

FORMATS = ("int8", "e4m3")
QUESTIONS = 500


def rounded(rows: torch.Tensor, fmt: str) -> torch.Tensor:
    """Round rows [N, K] to 8 bits with a scale a row; fmt: of FORMATS."""
    if fmt == "int8":
        return dequantize(*quantize(rows), rows.dtype)
    scale = rows.abs().amax(1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
    return (rows / scale).to(torch.float8_e4m3fn).to(rows.dtype) * scale


@torch.inference_mode()
def log_probs(model: Any, prompts: list[list[int]]) -> list[torch.Tensor]:
    return [model(torch.tensor([ids])).logits[0].double().log_softmax(-1) for ids in prompts]


def rows(name: str, model: Any, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """Measure each format; the demo's questions too. The model's table is restored."""
    table = model.get_input_embeddings().weight
    stored = table.data.clone()
    asked = name == "demo"
    reference = log_probs(model, prompts)
    before = measure.quality(model, QUESTIONS) if asked else {}
    found = []
    for fmt in FORMATS:
        table.data.copy_(rounded(stored, fmt))
        off = (table.data - stored).square().mean().sqrt() / stored.square().mean().sqrt()
        row: dict[str, Any] = {"model": name, "head": fmt, "tokens": sum(map(len, prompts))}
        row |= {"weight_rms": off.item()} | distance(log_probs(model, prompts), reference, prompts)
        if asked:
            after = measure.quality(model, QUESTIONS)
            row["right"] = {
                place: [before[place]["right"], after[place]["right"], after[place]["of"]]
                for place in after
                if isinstance(after[place], dict) and "right" in after[place]
            }
            row["nats_a_token_more"] = measure.change(after, before)["nats_a_token"]
        found.append(row)
    table.data.copy_(stored)
    return found


def main(argv: list[str] | None = None) -> int:
    return run("bench.head_distance", __doc__.splitlines()[0], rows, argv)


if __name__ == "__main__":
    raise SystemExit(main())
