# SPDX-License-Identifier: Apache-2.0
"""All figures of the demo, by transformers: `python -m sglang_gemma4_ext.demo.measure OUT`.

OUT is what `train` wrote. Prints JSON: accuracy on the 500 questions with each answer, held-out
log-likelihood, the same under each fault, and the assistant's accept length.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import transformers

from sglang_gemma4_ext.demo import drafts, evaluate, quantized
from sglang_gemma4_ext.demo.faults import FAULTS
from sglang_gemma4_ext.demo.question_set import read
from sglang_gemma4_ext.demo.tokenizer import build

TEXTS = 60
DRAFTED = 40


def quality(model: torch.nn.Module, questions: int) -> dict[str, Any]:
    """Accuracy within and beyond the window with 95 % intervals, and log-likelihood likewise."""
    logits = evaluate.transformers_logits(model)
    items = read(questions)
    answers = evaluate.greedy(logits, [evaluate.prompt_ids(item) for item in items])
    found: dict[str, Any] = {"questions": questions}
    for place, score in evaluate.score(items, answers).items():
        low, high = score.interval
        found[place] = {
            "right": score.right, "of": score.count, "accuracy": round(score.accuracy, 4),
            "interval": [round(low, 4), round(high, 4)],
        }  # fmt: skip
    found["answers"] = "".join(build().decode([token]).strip()[:1] or "?" for token in answers)
    values = evaluate.log_likelihoods(logits, evaluate.held_out_texts(TEXTS))
    found["log_likelihood"] = {
        "nats_a_token": round(mean(values), 5), "texts": TEXTS,
        "interval": [round(end, 5) for end in evaluate.bootstrap_interval(values)],
    }  # fmt: skip
    return found


def accepted(model: torch.nn.Module, assistant: torch.nn.Module) -> dict[str, Any]:
    """Accept length on the question set, asked as a chat, and on the endings of stories."""
    prompts = {
        "question_set": (drafts.question_prompts(read(100)[:DRAFTED]), 24),
        "free_text": (drafts.story_prompts(DRAFTED // 2), 48),
    }
    found: dict[str, Any] = {"draft_steps": drafts.STEPS}
    for name, (ids, new_tokens) in prompts.items():
        counted = drafts.count(model, assistant, ids, new_tokens)
        found[name] = {
            "prompts": len(ids), "most_new_tokens": new_tokens, "tokens": counted.tokens,
            "verifications": counted.verifications, "accept_length": round(counted.length, 3),
        }  # fmt: skip
    return found


def bf16_model(folder: Path) -> torch.nn.Module:
    model = transformers.Gemma4ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, experts_implementation="grouped_mm"
    )
    return model.eval()


def trained(out: Path) -> dict[str, Any]:
    """What the two training logs end with. Seconds are those of the wall, stops left out."""
    last, drafter = (
        json.loads((out / name).read_text().splitlines()[-1])
        for name in ("training.jsonl", "assistant.jsonl")
    )
    return {
        "steps": last["step"], "seconds": last["seconds"], "loss": last["loss"],
        "assistant_steps": drafter["step"], "assistant_seconds": drafter["seconds"],
    }  # fmt: skip


def everything(out: Path) -> dict[str, Any]:
    """All figures of what `train` wrote to `out`."""
    nvfp4 = out / "nvfp4"
    served = quantized.load(nvfp4)
    drafter = transformers.Gemma4AssistantForCausalLM.from_pretrained(
        out / "assistant", dtype=torch.float32
    )
    return {
        "command": " ".join(["python -m sglang_gemma4_ext.demo.measure", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{_processor()}, {torch.get_num_threads()} thread",
        "versions": {name: version(name) for name in ("torch", "transformers", "nvidia-modelopt")},
        "training": trained(out),
        "farthest": max(item["distance"] for item in read(500)),
        "bf16": quality(bf16_model(out / "bf16"), 500),
        "nvfp4": quality(served, 500),
        "nvfp4_100": quality(served, 100),
        "faults": {name: quality(make(nvfp4), 100) for name, make in FAULTS.items()},
        "assistant": accepted(served, drafter.eval()),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo")
    if lines.is_file():
        for line in lines.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder that train wrote")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(everything(args.out), indent=1))


if __name__ == "__main__":
    main()
