# SPDX-License-Identifier: Apache-2.0
"""Read a local copy of MMLU, and draw a seeded subset of its questions.

Two layouts are read, both in the columns of `cais/mmlu` (question, subject, choices, answer 0-3).
One is the published layout, `all/test-*.parquet` and `all/dev-*.parquet`. The other is a single
file of JSON lines, as for the demo's question sets; it has no examples.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = ("question", "subject", "choices", "answer")


class DataError(ValueError):
    """Report data that cannot be read; the message is one sentence for the user."""


@dataclass(frozen=True)
class Questions:
    """Hold the questions in a fixed order, and the examples of each subject.

    lead: what a prompt must begin with, because the demo's tokenizer adds no <bos> by itself
    """

    items: tuple[dict[str, Any], ...]
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    lead: str = ""

    @property
    def subjects(self) -> list[str]:
        return sorted({item["subject"] for item in self.items})

    def need(self, shots: int) -> None:
        """Require examples. Raises DataError if a subject has fewer than `shots`."""
        for subject in self.subjects:
            if len(self.examples.get(subject, ())) < shots:
                raise DataError(f"{subject} has fewer than {shots} examples: lower --shots")

    def of(self, subject: str) -> list[dict[str, Any]]:
        """Return the subject's questions; `number` is the position of each among all."""
        return [
            {**{name: item[name] for name in COLUMNS}, "number": number}
            for number, item in enumerate(self.items)
            if item["subject"] == subject
        ]


def read(path: Path, count: int, seed: int) -> Questions:
    """Draw `count` questions by `seed` from a local copy.

    The draw is over the file's order, so equal files give equal subsets on every machine.
    Raises DataError with one sentence for a file that cannot be read or has too few questions.
    """
    rows, examples = _parquet(path) if path.is_dir() else (_json_lines(path), [])
    for row in (*rows, *examples):
        _check(row, path)
    if count > len(rows):
        raise DataError(f"{path} has {len(rows)} questions, not {count}: lower --count")
    chosen = sorted(random.Random(seed).sample(range(len(rows)), count))
    by_subject: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        by_subject.setdefault(example["subject"], []).append(example)
    return Questions(tuple(rows[number] for number in chosen), by_subject)


def demo(count: int) -> Questions:
    """Return `count` of the demo's held-out questions, from each of its sets in turn."""
    from sglang_gemma4_ext.demo.training.question_set import FOLDER

    sets = [_json_lines(file) for file in sorted(FOLDER.glob("*_500.jsonl"))]
    by_turns = [item for items in zip(*sets, strict=True) for item in items]
    if count > len(by_turns):
        raise DataError(f"the demo has {len(by_turns)} questions, not {count}: lower --count")
    return Questions(tuple(by_turns[:count]), lead="<bos>")


def _parquet(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read questions and examples."""
    found = []
    for split in ("test", "dev"):
        files = sorted(folder.glob(f"all/{split}-*.parquet"))
        if not files:
            raise DataError(
                f"{folder} has no all/{split}-*.parquet: give the folder of a copy of cais/mmlu"
            )
        found.append([row for file in files for row in _rows(file)])
    return found[0], found[1]


def _rows(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError):
        raise DataError(
            f"{file} is not a parquet file: if it is a Git LFS pointer, run `git lfs pull`"
        ) from None


def _json_lines(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{file} is not JSON lines: {error}") from None


def _check(row: Any, path: Path) -> None:
    if not isinstance(row, dict) or any(name not in row for name in COLUMNS):
        raise DataError(f"{path} lacks one of MMLU's columns: {', '.join(COLUMNS)}")
    if len(row["choices"]) != 4 or row["answer"] not in range(4):
        raise DataError(f"{path}: a question has {len(row['choices'])} choices, not four")
