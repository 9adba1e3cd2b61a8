# SPDX-License-Identifier: Apache-2.0
"""Load a server with chats, completions and streams; some are given up, some are faulty.

Lengths, kinds and texts are drawn from a seed, each client from its own. A request that does not
get the answer of its kind is an error, recorded with the answer.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import requests

from sglang_gemma4_ext.demo.training import question_set

ANSWER_S, GIVEN_UP_AFTER = 120, 3
GENERATE, COMPLETE, CHAT = "/generate", "/v1/completions", "/v1/chat/completions"
# (share in 100, path, streamed, closed in mid-stream)
KINDS: dict[str, tuple[int, str, bool, bool]] = {
    "chat": (25, CHAT, False, False),
    "chat, streamed": (25, CHAT, True, False),
    "completion": (15, COMPLETE, False, False),
    "completion, streamed": (10, COMPLETE, True, False),
    "log-probabilities": (5, GENERATE, False, False),
    "given up": (10, CHAT, True, True),
    "mistake": (10, "", False, False),
}
MISTAKES: tuple[tuple[str, dict[str, Any]], ...] = (
    (CHAT, {"messages": "Hi"}),
    (CHAT, {"messages": [{"role": "user", "content": "a " * 5000}]}),
    (COMPLETE, {"prompt": [10**6]}),
    (COMPLETE, {"prompt": "Hi", "max_tokens": -1}),
    (COMPLETE, {"prompt": "Hi", "n": 10**6}),
    (GENERATE, {"text": "Hi", "sampling_params": {"nope": 1}}),
)


class WrongAnswer(Exception):
    """Report the answer that a request got instead of the expected one."""


@dataclass
class Tally:
    """Record, by kind, seconds to the end and to the first chunk, and errors."""

    whole_s: dict[str, list[float]] = field(default_factory=dict)
    first_s: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def percentiles(self) -> dict[str, dict[str, float]]:
        """Return by kind the count, and milliseconds at p50, p90 and p99."""
        found = {}
        for kind, seconds in sorted(self.whole_s.items()):
            found[kind] = {"requests": len(seconds), **_in_ms("", seconds)}
            found[kind] |= _in_ms("first_", self.first_s.get(kind, []))
        return found


def _in_ms(prefix: str, seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"{prefix}p{share}_ms": round(1000 * ordered[(len(ordered) - 1) * share // 100], 1)
        for share in (50, 90, 99)
        if ordered
    }


def run(url: str, clients: int, until: float, seed: int = 1) -> Tally:
    """Keep `clients` requests in flight until time.monotonic() is `until`."""
    tally = Tally()
    questions = [item["question"] for item in question_set.read(100)]
    draws = [random.Random(seed + i) for i in range(clients)]
    threads = [
        threading.Thread(target=_client, args=(url, until, draw, questions, tally))
        for draw in draws
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def _client(
    url: str, until: float, draw: random.Random, questions: list[str], tally: Tally
) -> None:
    shares = [share for share, *_ in KINDS.values()]
    with requests.Session() as session:
        while time.monotonic() < until:
            (kind,) = draw.choices(list(KINDS), shares)
            began = time.monotonic()
            try:
                first = _ask(session, url, kind, draw, questions)
            except (requests.RequestException, ValueError, WrongAnswer) as error:
                tally.errors.append(f"{kind}: {error!r}"[:300])
                continue
            tally.whole_s.setdefault(kind, []).append(time.monotonic() - began)
            if first is not None:
                tally.first_s.setdefault(kind, []).append(first - began)


def _ask(
    session: requests.Session, url: str, kind: str, draw: random.Random, questions: list[str]
) -> float | None:
    """Send one request of a kind; return the time of a stream's first chunk, None without a stream.

    Raises WrongAnswer if the answer is not the one of that kind.
    """
    _, path, streamed, given_up = KINDS[kind]
    if kind == "mistake":
        path, fields = draw.choice(MISTAKES)
        answer = session.post(url + path, json={"model": "m", **fields}, timeout=ANSWER_S)
        if not 400 <= answer.status_code < 500:
            raise WrongAnswer(f"{answer.status_code} {answer.text[:200]}")
        return None
    body = _body(path, draw, draw.choice(questions)) | {"stream": streamed}
    with session.post(url + path, json=body, stream=streamed, timeout=ANSWER_S) as answer:
        if answer.status_code != 200 or (not streamed and "error" in answer.json()):
            raise WrongAnswer(f"{answer.status_code} {answer.text[:200]}")
        return _read(answer, GIVEN_UP_AFTER if given_up else None) if streamed else None


def _read(answer: requests.Response, chunks: int | None) -> float:
    """Read a stream to its end, or for so many chunks; return the time of its first chunk."""
    first, line = None, b""
    for count, line in enumerate(filter(None, answer.iter_lines()), start=1):
        first = first or time.monotonic()
        if b'"error"' in line:
            raise WrongAnswer(line.decode(errors="replace")[:200])
        if count == chunks:
            return first
    if first is None or line != b"data: [DONE]":
        raise WrongAnswer(f"a stream ended with {line[:200]!r}")
    return first


def _body(path: str, draw: random.Random, question: str) -> dict[str, Any]:
    """Make a body: half greedy, half sampled; half short answers, half that pass the window."""
    new = draw.choice((4, 8, 40))
    temperature = draw.choice((0, 0.8))
    common = {"model": "m", "max_tokens": new, "temperature": temperature, "ignore_eos": True}
    if path == CHAT:
        return {**common, "messages": [{"role": "user", "content": question}]}
    if path == COMPLETE:
        return {**common, "prompt": question}
    sampling = {"max_new_tokens": new, "temperature": temperature}
    return {"text": question, "sampling_params": sampling, "return_logprob": True}
