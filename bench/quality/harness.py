# SPDX-License-Identifier: Apache-2.0
"""Run MMLU through lm-evaluation-harness: its task, prompts, client and scoring, on given data.

The task is the harness's `mmlu_generative`, one subtask per subject; only the source of the
questions is replaced. A prompt ends with "Answer:" and the reply's first line must be the letter.

In a chat the same question is a message to /v1/chat/completions. The harness's regex filter takes
the last letter that the reply begins with or has after "Answer:".
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.quality.mmlu import Questions

LETTERS = "ABCD"
TEMPLATE = "tasks/mmlu/generative/_default_template_yaml"
LETTER_TOKENS = 4
SAID_LETTER = r"(?:Answer:|^)\W*([A-D])\b"
NO_LETTER = "-"


@dataclass(frozen=True)
class Asking:
    """Set how the questions are asked.

    shots: examples of the same subject before each question
    chat_tokens: the most tokens of a chat's reply; 0 asks for the letter alone, without a chat
    """

    shots: int = 5
    concurrency: int = 32
    chat_tokens: int = 0


@dataclass(frozen=True)
class Answers:
    """Hold, in the order of the questions, whether each was right, and the given letter."""

    right: tuple[bool, ...]
    letters: str


def ask(questions: Questions, base_url: str, model: str, asking: Asking) -> Answers:
    """Ask an OpenAI-compatible endpoint every question at temperature 0.

    base_url: up to and with /v1
    Raises DataError if a subject has fewer examples than `asking.shots`.
    """
    questions.need(asking.shots)
    chat = asking.chat_tokens > 0
    # Both are read at import.
    os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)
    found = simple_evaluate(
        model="local-chat-completions" if chat else "local-completions",
        model_args={
            "model": model,
            "base_url": f"{base_url.rstrip('/')}/{'chat/' if chat else ''}completions",
            "tokenizer_backend": None,
            "num_concurrent": asking.concurrency,
            "max_retries": 3,
            "timeout": 24 * 3600,  # of all questions together
        },
        tasks=_tasks(questions, asking),
        task_manager=TaskManager(include_defaults=False),
        num_fewshot=asking.shots,
        apply_chat_template=chat,
        bootstrap_iters=0,
        random_seed=0, numpy_random_seed=0, torch_random_seed=0, fewshot_random_seed=0,
    )  # fmt: skip
    said = [sample for samples in found["samples"].values() for sample in samples]
    said.sort(key=lambda sample: sample["doc"]["number"])
    if [sample["doc"]["number"] for sample in said] != list(range(len(questions.items))):
        raise RuntimeError("the harness did not answer each question once")
    replies = [str(sample["filtered_resps"][0]).strip().upper() for sample in said]
    letters = "".join(reply if reply in (*LETTERS,) else NO_LETTER for reply in replies)
    return Answers(tuple(bool(sample["exact_match"] == 1) for sample in said), letters)


def _tasks(questions: Questions, asking: Asking) -> list[Any]:
    import lm_eval
    import yaml
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    template = yaml.safe_load((Path(lm_eval.__file__).parent / TEMPLATE).read_text())
    del template["dataset_path"]
    made = []
    for subject in questions.subjects:
        splits = {"test": questions.of(subject), "dev": questions.examples.get(subject, [])}
        data = {name: Dataset.from_list(rows) for name, rows in splits.items() if rows}
        name = subject.replace("_", " ")
        config = {
            **template,
            "task": f"mmlu_{subject}_generative",
            "custom_dataset": lambda data=data, **_: data,
            "description": f"{questions.lead}The following are multiple choice questions "
            f"(with answers) about {name}.\n\n",
            "generation_kwargs": {
                **template["generation_kwargs"],
                "temperature": 0.0,
                "max_gen_toks": LETTER_TOKENS,
            },
        }
        if not asking.shots:
            del config["fewshot_split"], config["fewshot_config"]
        made.append(ConfigurableTask(config=config | _chat(asking)))
    return made


def _chat(asking: Asking) -> dict[str, Any]:
    """Set what differs in a chat: no heading, a longer reply, and the letter found in it."""
    if not asking.chat_tokens:
        return {}
    letter = {"function": "regex", "regex_pattern": SAID_LETTER, "group_select": -1}
    return {
        "description": "",
        "generation_kwargs": {
            "until": [], "temperature": 0.0, "max_gen_toks": asking.chat_tokens,
        },
        "filter_list": [{"name": "letter", "filter": [letter, {"function": "take_first"}]}],
    }  # fmt: skip


def model_name(base_url: str) -> str:
    """Return the first model that an endpoint lists; OPENAI_API_KEY is sent, as by the harness."""
    import requests

    header = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}
    reply = requests.get(f"{base_url.rstrip('/')}/models", headers=header, timeout=60)
    reply.raise_for_status()
    return reply.json()["data"][0]["id"]
