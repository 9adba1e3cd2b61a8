# SPDX-License-Identifier: Apache-2.0
"""Measure how far an E4M3 KV cache moves log-probabilities, by our arithmetic and by SGLang's.

    python -m bench.kv_distance --out bench/results/kv_distance_cpu.jsonl

Models run in transformers, in fp32, teacher-forced. The reference keeps keys and values in BF16.
Each row says how far one way is from it, and from exact attention over the same E4M3 cache. The
second is what the arithmetic adds to the cache's own rounding.

- `exact`: the cache is E4M3, and attention is fp32.
- `ours`: queries and softmax weights are FP16 too, as in kernels/_kv_tile.py.
- `sglang`: queries and softmax weights are E4M3, as in SGLang's Triton kernels.

The models are random ones of each kind and the bundled demo on its own questions.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.gemma4 import modeling_gemma4 as gemma4

from bench.checkpoints import tiny
from bench.checkpoints.tokenizer import prompt_ids
from bench.conditions import conditions, write
from sglang_gemma4_ext import demo
from sglang_gemma4_ext.demo.training import quantized

E4M3 = torch.float8_e4m3fn
RANDOM = ("dense", "moe", "e2b")
WAYS = ("exact", "ours", "sglang")
PROMPTS, LENGTH = 8, 200
Tensor = torch.Tensor


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).to(x.dtype)


def halved(q: Tensor) -> Tensor:
    """Round queries [.., D] to FP16 after division by a power of two per row, as the kernels do."""
    largest = q.abs().amax(-1, keepdim=True)
    power = torch.where(largest > 0, largest.log2().floor().exp2(), torch.ones_like(largest))
    return rounded(q / power, torch.float16) * power


def attention(way: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return a function that takes transformers' arguments of eager attention.

    way: of WAYS, or "bf16" for a cache of BF16 and exact attention
    """

    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **others: Any,
    ) -> tuple[Tensor, Tensor]:
        stored = torch.bfloat16 if way == "bf16" else E4M3
        key, value = (
            gemma4.repeat_kv(rounded(x, stored), module.num_key_value_groups) for x in (key, value)
        )
        if way == "ours":
            query = halved(query)
        elif way == "sglang":
            query = rounded(query, E4M3)
        scores = query @ key.mT * (module.head_dim**-0.5 if scaling is None else scaling)
        if attention_mask is not None:
            scores = scores + attention_mask
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        total = weights.sum(-1, keepdim=True)
        if way == "ours":
            weights = rounded(weights, torch.float16)
        elif way == "sglang":
            weights = rounded(weights, E4M3)
        return (weights @ value / total).transpose(1, 2).contiguous(), weights / total

    return attend


@contextmanager
def attending(way: str) -> Iterator[None]:
    """Let models with eager attention attend in this way."""
    original = gemma4.eager_attention_forward
    gemma4.eager_attention_forward = attention(way)
    try:
        yield
    finally:
        gemma4.eager_attention_forward = original


@torch.inference_mode()
def log_probs(model: Any, prompts: list[list[int]], way: str) -> list[Tensor]:
    """Return float64 [T, vocabulary] of each prompt, in transformers' forward without a cache."""
    with attending(way):
        return [
            model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            for ids in prompts
        ]


def distance(got: list[Tensor], want: list[Tensor], prompts: list[list[int]]) -> dict[str, float]:
    """Compare log-probabilities: KL from `want`, and the error of the prompts' own next tokens."""
    kl, moved, changed = [], [], []
    for ours, theirs, ids in zip(got, want, prompts, strict=True):
        kl.append((theirs.exp() * (theirs - ours)).sum(-1))
        following = torch.tensor(ids[1:])[:, None]
        moved.append((ours - theirs)[:-1].gather(-1, following)[:, 0])
        changed.append(ours.argmax(-1) != theirs.argmax(-1))
    error = torch.cat(moved)
    return {
        "kl": torch.cat(kl).mean().item(),
        "log_prob_rms": error.square().mean().sqrt().item(),
        "log_prob_worst": error.abs().max().item(),
        "argmax_changed": torch.cat(changed).double().mean().item(),
    }


def random_model(kind: str, folder: Path) -> tuple[Any, list[list[int]]]:
    path = tiny.build(kind, folder / kind)
    name = json.loads((path / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval(), [prompt_ids(LENGTH, seed=seed) for seed in range(PROMPTS)]


def demo_model() -> tuple[Any, list[list[int]]]:
    """Return the demo in fp32, and the first questions of its own set as it sees them."""
    model = quantized.load(demo.model_path())
    model.set_attn_implementation("eager")
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo.model_path())
    lines = (
        (demo.model_path().parent / "questions" / "questions_100.jsonl").read_text().splitlines()
    )
    texts = [json.loads(line)["question"] for line in lines[:PROMPTS]]
    return model, [tokenizer(text)["input_ids"] for text in texts]


def rows(name: str, model: Any, prompts: list[list[int]]) -> list[dict[str, Any]]:
    found = {way: log_probs(model, prompts, way) for way in ("bf16", *WAYS)}
    tokens = sum(map(len, prompts))
    return [
        {"model": name, "way": way, "tokens": tokens}
        | {"from_bf16_cache": distance(found[way], found["bf16"], prompts)}
        | {"from_same_cache": distance(found[way], found["exact"], prompts)}
        for way in WAYS
    ]


def run(
    module: str,
    summary: str,
    rows: Callable[[str, Any, list[list[int]]], list[dict[str, Any]]],
    argv: list[str] | None,
) -> int:
    """Print the rows of random models and the demo, and write them to --out. Returns 0.

    module, summary: of the bench that is run; rows: measure a model by name on prompts
    """
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines")
    args = parser.parse_args(argv)
    made_under = conditions(shlex.join(["python", "-m", module, *sys.argv[1:]]))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in RANDOM:
            found += rows(f"random {kind}", *random_model(kind, Path(folder)))
    found += rows("demo", *demo_model())
    for row in found:
        print(json.dumps(row))
    write([row | made_under for row in found], args.out)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run("bench.kv_distance", __doc__.splitlines()[0], rows, argv)


if __name__ == "__main__":
    raise SystemExit(main())
