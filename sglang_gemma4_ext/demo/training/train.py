# SPDX-License-Identifier: Apache-2.0
"""Rebuild the demo: `python -m sglang_gemma4_ext.demo.training.train OUT`.

It trains the model and its assistant on one CPU core, resumably, in two lessons. The first one, on
stories and languages, starts from scratch and writes to OUT/stories. The second one, on tools, goes
on from the NVFP4 weights of the first. A folder OUT/stories with `nvfp4` and `assistant` is taken
as it is.

OUT gets `bf16`, `nvfp4` (the bundled model; this needs nvidia-modelopt, in the `test` extra),
`assistant` and `figures.json`. Training is seeded, but another version of PyTorch may give other
bits.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import transformers

from sglang_gemma4_ext.demo.training import (
    architecture,
    assistant_training,
    export,
    loop,
    measure,
    quantized,
    second_lesson,
)


def first(out: Path, seed: int) -> None:
    """Train model and assistant from scratch on stories and languages."""
    out.mkdir(parents=True, exist_ok=True)
    target = architecture.build(seed)
    text = target.model.language_model
    loop.train(text, seed=seed, out=out)
    drafter = assistant_training.build(target.config.text_config, seed)
    assistant_training.train(drafter, text, seed=seed, out=out)
    _export(target, drafter, out)


def second(stories: Path, out: Path, seed: int) -> None:
    """Train both further on tools, from what the first lesson exported to `stories`."""
    target = quantized.load(stories / "nvfp4").train()
    text = target.model.language_model
    second_lesson.add_tokens(text.embed_tokens.weight, seed)
    loop.train(
        text, seed=seed, out=out, schedule=second_lesson.SCHEDULE, make=second_lesson.batch
    )  # fmt: skip
    drafter = transformers.Gemma4AssistantForCausalLM.from_pretrained(
        stories / "assistant", dtype=torch.float32
    )
    second_lesson.add_tokens(drafter.model.embed_tokens.weight, seed)
    assistant_training.train(
        drafter, text, seed=seed, out=out,
        schedule=second_lesson.ASSISTANT_SCHEDULE, make=second_lesson.assistant_batch,
    )  # fmt: skip
    _export(target, drafter, out)


def _export(target, drafter, out: Path) -> None:
    export.bf16(target, out / "bf16")
    export.assistant(drafter, out / "assistant")
    export.nvfp4(out / "bf16", out / "nvfp4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.monotonic()
    stories = args.out / "stories"
    if not ((stories / "nvfp4").is_dir() and (stories / "assistant").is_dir()):
        first(stories, args.seed)
    second(stories, args.out, args.seed)
    print(f"trained in {(time.monotonic() - started) / 60:.0f} minutes; measuring")
    measure.update(args.out / "figures.json", args.out)


if __name__ == "__main__":
    main()
