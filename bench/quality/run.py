# SPDX-License-Identifier: Apache-2.0
"""Ask a server or an endpoint all questions, and make its row of the quality table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import requests

from bench.processes import ServerError
from bench.quality.compare import accuracy
from bench.quality.harness import NO_LETTER, Answers, Asking, ask, model_name
from bench.quality.mmlu import Questions
from bench.servers import Side, running

START_S = 1200


def ask_server(
    side: Side,
    flags: Sequence[str],
    questions: Questions,
    askings: Sequence[Asking],
    folder: Path,
    env: Mapping[str, str] = {},
) -> list[dict[str, Any]]:
    """Start a server, ask it in each way, and end it; return one row for each way.

    A server that does not start gives rows that say so.
    """
    about = {"side": side.name, "flags": list(flags)}
    try:
        with running(side, flags, folder, start_s=START_S, env=env) as server:
            return [about | row for row in _rows(f"{server.url}/v1", questions, askings)]
    except ServerError as error:
        return [about | _asked(questions, asking) | {"failed": str(error)} for asking in askings]


def ask_endpoint(base_url: str, questions: Questions, asking: Asking) -> dict[str, Any]:
    """Return the row of a server that runs already, ours or not.

    base_url: up to and with /v1. An endpoint that does not answer gives a row that says so.
    """
    return {"side": "endpoint", "flags": []} | next(iter(_rows(base_url, questions, [asking])))


def _rows(base_url: str, questions: Questions, askings: Sequence[Asking]) -> list[dict[str, Any]]:
    return [_asked(questions, asking) | _found(base_url, questions, asking) for asking in askings]


def _found(base_url: str, questions: Questions, asking: Asking) -> dict[str, Any]:
    try:
        return figures(ask(questions, base_url, model_name(base_url), asking))
    except (requests.RequestException, aiohttp.ClientError) as error:
        return {"failed": f"a request failed: {type(error).__name__}"}


def figures(answers: Answers) -> dict[str, Any]:
    found = accuracy(answers.right)
    return {
        "right": found.right,
        "accuracy": round(found.share, 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
        "without_letter": answers.letters.count(NO_LETTER),
        "right_of_each": "".join("01"[right] for right in answers.right),
        "letters": answers.letters,
    }


def _asked(questions: Questions, asking: Asking) -> dict[str, Any]:
    return {
        "questions": len(questions.items),
        "shots": asking.shots,
        "chat": asking.chat_tokens > 0,
    }
