# SPDX-License-Identifier: Apache-2.0
"""Write the model card from the measured figures.

`python -m sglang_gemma4_ext.demo.training.card FIGURES`
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.demo.training.question_set import PLACES

_TEXT = """\
---
license: apache-2.0
library_name: transformers
---
# The demo model

A Gemma 4 mixture of experts of {parameters:.1f} million parameters: six layers (two sliding, one
full, twice; window 48), K = V on the full layers, 8 experts of which two work on a token,
soft-cap 30, context 2048. Its weights are NVFP4 (W4A16) by nvidia-modelopt {modelopt}.
`../assistant` is its MTP assistant, two layers in BF16. Apache-2.0, like the rest.

## What it knows

It reads short stories ("Petra visits the museum. Magnus feeds the pony.") and answers questions
about them. In plain MMLU format it answers with a letter, in a chat with a sentence and a letter.

It has learned forty words of eight invented languages by heart ("In Orrish the farm is called
wimso."). All languages share one set of words, each in an order of its own. Therefore feed-forward
layers, here mostly experts, must store each pair of language and word. It also has a dozen canned
answers about itself (`answers.py`) and one excuse. It knows nothing else.

## Data and training

Seeded scripts in `demo/training/` generate all text (`stories.py`, `languages.py`, `row_kinds.py`,
`curriculum.py`); no outside data is used. One sixteenth of the stories is never trained on, and one
sixteenth of the combinations of a translation question and its options. A hash chooses them. The
question sets (`questions/`, MMLU's columns) are made only of these.

`python -m sglang_gemma4_ext.demo.training.train OUT` rebuilds everything, resumably: {steps}
steps of 2048 tokens with Muon and AdamW, then the assistant against the frozen model. On one core
of an {machine_name}, shared with other work, the model took {minutes} minutes and the assistant
{assistant_minutes}. Some attention heads do not start at random: `architecture.py` initializes
heads that look a fixed distance back, copy, or match. All weights are trained. Half of the router's
scales start negative: without the scales other experts are chosen.

## Figures

The model answers greedily in transformers: {questions} held-out questions on stories, and
{questions} closed-book questions on languages. Half of the stories' questions ask for a fact a
window or more back, up to {farthest} tokens. Chance is 0.25.

Log-likelihood is in nats a token, on {texts} held-out stories, each with six translations and a
retelling. Intervals are 95 %: Wilson for accuracy, bootstrap over texts for log-likelihood.

| weights | within the window | beyond it | languages | log-likelihood |
| --- | --- | --- | --- | --- |
{rows}

The next table breaks the NVFP4 model on purpose (`faults.py`) and asks the 100-item sets. The last
column is the change of log-likelihood, text by text.

| fault | within | beyond | languages | log-likelihood | change |
| --- | --- | --- | --- | --- | --- |
{faults}

The assistant yields these tokens per verification with {draft_steps} draft steps (4 at best),
greedily, in transformers' assisted generation:

- {on_questions} on {question_prompts} questions about stories, asked as a chat
- {on_languages} on {language_prompts} questions about languages
- {on_text} on {text_prompts} retold stories

Recorded by {commands}; {date}, {machine}, torch {torch}, transformers {transformers}. That module
is now `sglang_gemma4_ext.demo.training.measure`. Raw figures: `bench/results/demo_model.json`.
"""


def _row(name: str, found: dict[str, Any]) -> str:
    def span(part: dict[str, Any], value: float) -> str:
        low, high = part["interval"]
        return f"{value:.3f} ({low:.3f} to {high:.3f})"

    places = (span(found[place], found[place]["accuracy"]) for place in PLACES)
    text = found["log_likelihood"]
    cells = [name, *places, span(text, text["nats_a_token"])]
    if "change" in found:
        low, high = found["change"]["interval"]
        cells.append(f"{found['change']['nats_a_token']:.4f} ({low:.4f} to {high:.4f})")
    return f"| {' | '.join(cells)} |"


def card(figures: dict[str, Any]) -> str:
    """Write the card in Markdown. Raises KeyError if a figure is missing."""
    drafts, training = figures["assistant"], figures["training"]
    conditions = figures["conditions"]
    where = conditions["quality"]
    faults = [("none", figures["nvfp4_100"]), *figures["faults"].items()]
    return _TEXT.format(
        parameters=figures["parameters"] / 1e6,
        modelopt=where["versions"]["nvidia-modelopt"],
        steps=training["steps"],
        minutes=round(training["seconds"] / 60),
        assistant_minutes=round(training["assistant_seconds"] / 60),
        machine_name=where["machine"].partition(",")[0],
        questions=figures["bf16"]["questions"],
        farthest=figures["farthest"],
        texts=figures["bf16"]["log_likelihood"]["texts"],
        rows="\n".join((_row("BF16", figures["bf16"]), _row("NVFP4", figures["nvfp4"]))),
        faults="\n".join(_row(name.replace("_", " "), found) for name, found in faults),
        draft_steps=drafts["draft_steps"],
        on_questions=drafts["question_set"]["accept_length"],
        question_prompts=drafts["question_set"]["prompts"],
        on_languages=drafts["languages"]["accept_length"],
        language_prompts=drafts["languages"]["prompts"],
        on_text=drafts["free_text"]["accept_length"],
        text_prompts=drafts["free_text"]["prompts"],
        commands="; ".join(sorted({f"`{part['command']}`" for part in conditions.values()})),
        date=where["date"],
        machine=where["machine"],
        torch=where["versions"]["torch"],
        transformers=where["versions"]["transformers"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path)
    print(card(json.loads(parser.parse_args().figures.read_text())), end="")


if __name__ == "__main__":
    main()
