# SPDX-License-Identifier: Apache-2.0
"""Measure the demo with transformers.

`python -m sglang_gemma4_ext.demo.training.measure OUT FIGURES`

OUT is the folder that `train` wrote, FIGURES a JSON file. It gets accuracy on the question sets
with each answer, held-out log-likelihood, the same under each fault, and the assistant's accept
length.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import transformers

from sglang_gemma4_ext.demo.training import dialogues, drafts, evaluate, quantized
from sglang_gemma4_ext.demo.training.faults import FAULTS
from sglang_gemma4_ext.demo.training.question_set import SETS, read
from sglang_gemma4_ext.demo.training.tokenizer import build
from sglang_gemma4_ext.machine import processor

TEXTS = 60
DRAFTED = 40
DIALOGUES = 150


def quality(model: torch.nn.Module, questions: int) -> dict[str, Any]:
    """Measure accuracy and log-likelihood with 95 % intervals, on `questions` of each set.

    Accuracy is given within the window, beyond it and on languages.
    """
    logits = evaluate.transformers_logits(model)
    items = [item for name in SETS for item in read(questions, name)]
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
        "of_each": [round(value, 6) for value in values],
        "interval": [round(end, 5) for end in evaluate.bootstrap_interval(values)],
    }  # fmt: skip
    return found


def change(found: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """Compare log-likelihood with `reference`'s, text by text.

    What all texts share, such as how surprising a name is, cancels.
    """
    pairs = zip(
        found["log_likelihood"]["of_each"], reference["log_likelihood"]["of_each"], strict=True
    )
    values = [ours - theirs for ours, theirs in pairs]
    low, high = evaluate.bootstrap_interval(values)
    return {"nats_a_token": round(mean(values), 6), "interval": [round(low, 6), round(high, 6)]}


def accepted(model: torch.nn.Module, assistant: torch.nn.Module) -> dict[str, Any]:
    """Measure the accept length on the question sets, as a chat, and on retold stories."""
    prompts = {
        "question_set": (drafts.question_prompts(read(100)[:DRAFTED]), 24),
        "languages": (drafts.question_prompts(read(100, "languages")[:DRAFTED]), 24),
        "tools": (dialogues.call_prompts(dialogues.held_out(DRAFTED)), 24),
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
    """Read the ends of both lessons' logs; seconds are wall time without stops."""
    lessons = {}
    for name, folder in (("stories", out / "stories"), ("tools", out)):
        last, drafter = (
            json.loads((folder / log).read_text().splitlines()[-1])
            for log in ("training.jsonl", "assistant.jsonl")
        )
        lessons[name] = {
            "steps": last["step"], "seconds": last["seconds"], "loss": last["loss"],
            "assistant_steps": drafter["step"], "assistant_seconds": drafter["seconds"],
        }  # fmt: skip
    return lessons


def conditions() -> dict[str, Any]:
    return {
        "command": " ".join(["python -m sglang_gemma4_ext.demo.training.measure", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{processor()}, {torch.get_num_threads()} thread",
        "versions": {name: version(name) for name in ("torch", "transformers", "nvidia-modelopt")},
    }


def measure_quality(out: Path) -> dict[str, Any]:
    """Measure accuracy and log-likelihood of the model in `out`, with and without faults."""
    nvfp4 = out / "nvfp4"
    served = quantized.load(nvfp4)
    clean = quality(served, 100)
    faults = {name: quality(make(nvfp4), 100) for name, make in FAULTS.items()}
    return {
        "parameters": sum(tensor.numel() for tensor in served.parameters()),
        "farthest": max(item["distance"] for item in read(500)),
        "bf16": quality(bf16_model(out / "bf16"), 500),
        "nvfp4": quality(served, 500),
        "nvfp4_100": clean | {"change": change(clean, clean)},
        "faults": {
            name: found | {"change": change(found, clean)} for name, found in faults.items()
        },
    }


def measure_assistant(out: Path) -> dict[str, Any]:
    """Measure accept lengths, and read the duration of the two trainings."""
    assistant = transformers.Gemma4AssistantForCausalLM.from_pretrained(
        out / "assistant", dtype=torch.float32
    )
    drafted = accepted(quantized.load(out / "nvfp4"), assistant.eval())
    return {"training": trained(out), "assistant": drafted}


def measure_tools(out: Path) -> dict[str, Any]:
    """Count the right calls and answers of BF16 and NVFP4 in held-out dialogues."""
    models = {"bf16": bf16_model(out / "bf16"), "nvfp4": quantized.load(out / "nvfp4")}
    return {"tools": {name: dialogues.measure(m, DIALOGUES) for name, m in models.items()}}


PARTS = {"quality": measure_quality, "assistant": measure_assistant, "tools": measure_tools}


def update(figures: Path, out: Path, parts: Iterable[str] = PARTS) -> None:
    """Measure `parts` and write them, with their conditions, into the JSON file `figures`."""
    found = json.loads(figures.read_text()) if figures.is_file() else {}
    for part in parts:
        found |= PARTS[part](out)
        found["conditions"] = found.get("conditions", {}) | {part: conditions()}
    figures.parent.mkdir(parents=True, exist_ok=True)
    figures.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder that train wrote")
    parser.add_argument("figures", type=Path, help="the JSON file to write or update")
    parser.add_argument("--part", choices=PARTS, action="append", help="not all, only this")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    update(args.figures, args.out, args.part or PARTS)


if __name__ == "__main__":
    main()
