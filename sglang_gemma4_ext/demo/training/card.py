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
answers about itself (`answers.py`) and one excuse.

It calls three tools if a client declares them (`tool_stories.py`): `look_up(name)`, which tells
about a person, `add(a, b)` for two integers, and `clock()`. It calls one at a time and answers from
the result. It knows nothing else.

## Data and training

Seeded scripts in `demo/training/` generate all text (`stories.py`, `languages.py`, `row_kinds.py`,
`curriculum.py`, `tool_stories.py`, `second_lesson.py`); no outside data is used. One sixteenth of
the stories is never trained on. The same holds for the combinations of a translation question and
its options, and for the exchanges with a tool. A hash chooses them. The question sets
(`questions/`, MMLU's columns) and the dialogues below are made only of these.

`python -m sglang_gemma4_ext.demo.training.train OUT` rebuilds everything, resumably, in two lessons
of steps of 2048 tokens, with Muon and AdamW. After each one the assistant is trained against the
frozen model. The times are of one core of an {machine_name}, shared with other work:

| lesson | steps | minutes | assistant: steps | minutes |
| --- | --- | --- | --- | --- |
{lessons}

The second lesson goes on from the NVFP4 weights of the first. Some attention heads do not start at
random: `architecture.py` initializes heads that look a fixed distance back, copy, or match. All
weights are trained. Half of the router's scales start negative: without the scales other experts
are chosen.

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

With tools declared, {dialogues} held-out dialogues were asked. `call` is the right call and nothing
else, `answer` the right answer to the result of the right call. `direct` is {dialogues} other
questions whose answer needs no declared tool.

| weights | call | answer | direct |
| --- | --- | --- | --- |
{tools}

The assistant yields these tokens per verification with {draft_steps} draft steps (4 at best),
greedily, in transformers' assisted generation:

- {on_questions} on {question_prompts} questions about stories, asked as a chat
- {on_languages} on {language_prompts} questions about languages
- {on_tools} on {tool_prompts} calls of tools
- {on_text} on {text_prompts} retold stories

Recorded by {commands}; {date}, {machine}, torch {torch}, transformers {transformers}. Raw figures:
`bench/results/demo_model.json`.
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


def _lesson(name: str, found: dict[str, Any]) -> str:
    mine, drafters = (round(found[key] / 60) for key in ("seconds", "assistant_seconds"))
    return f"| {name} | {found['steps']} | {mine} | {found['assistant_steps']} | {drafters} |"


def _tools(name: str, found: dict[str, Any]) -> str:
    cells = (f"{found[key]} of {found['dialogues']}" for key in ("calls", "answers", "direct"))
    return f"| {name} | {' | '.join(cells)} |"


def card(figures: dict[str, Any]) -> str:
    """Write the card in Markdown. Raises KeyError if a figure is missing."""
    drafts, training = figures["assistant"], figures["training"]
    conditions = figures["conditions"]
    where = conditions["quality"]
    faults = [("none", figures["nvfp4_100"]), *figures["faults"].items()]
    return _TEXT.format(
        parameters=figures["parameters"] / 1e6,
        modelopt=where["versions"]["nvidia-modelopt"],
        lessons="\n".join(_lesson(*lesson) for lesson in training.items()),
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
        dialogues=figures["tools"]["nvfp4"]["dialogues"],
        tools="\n".join(_tools(name.upper(), found) for name, found in figures["tools"].items()),
        on_tools=drafts["tools"]["accept_length"],
        tool_prompts=drafts["tools"]["prompts"],
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
