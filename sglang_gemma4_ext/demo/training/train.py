# SPDX-License-Identifier: Apache-2.0
"""Rebuild the demo: `python -m sglang_gemma4_ext.demo.training.train OUT`.

It trains the model and its assistant from scratch on one CPU core, resumably. The bundled ones took
28 and 6 minutes on a machine shared with other work. It writes to OUT `bf16`, `nvfp4` (the bundled
model; this needs nvidia-modelopt, in the `test` extra), `assistant` and `figures.json`. It is
seeded, but another version of PyTorch may give other bits.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from sglang_gemma4_ext.demo.training import architecture, assistant_training, export, loop, measure
from sglang_gemma4_ext.demo.training.curriculum import STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS, help="stop early")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    target = architecture.build(args.seed)
    text = target.model.language_model
    loop.train(text, until=args.steps, seed=args.seed, out=args.out)
    drafter = assistant_training.build(target.config.text_config, args.seed)
    assistant_training.train(drafter, text, seed=args.seed, out=args.out)
    export.bf16(target, args.out / "bf16")
    export.assistant(drafter, args.out / "assistant")
    export.nvfp4(args.out / "bf16", args.out / "nvfp4")
    print(f"trained in {(time.monotonic() - started) / 60:.0f} minutes; measuring")
    measure.update(args.out / "figures.json", args.out)


if __name__ == "__main__":
    main()
